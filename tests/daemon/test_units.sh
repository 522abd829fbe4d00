#!/bin/sh
# SPDX-License-Identifier: MIT
# systemd-analyze accepts the units. $1: the daemon's binary, which ExecStart
# has to find; the rest: the units.
command -v systemd-analyze >/dev/null || { echo "1..0 # SKIP systemd-analyze is not installed"; exit 0; }
uprobed=$(realpath "$1")
shift
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
for unit; do
	sed "s|^ExecStart=[^ ]*|ExecStart=$uprobed|; /^Documentation=/d" "$unit" >"$dir/${unit##*/}"
done
echo 1..1
out=$(SYSTEMD_UNIT_PATH="$dir:" systemd-analyze verify "$dir/uprobed.service" "$dir/uprobed.socket" 2>&1)
if [ $? -eq 0 ] && ! echo "$out" | grep -q 'uprobed\.\(service\|socket\)'; then
	echo "ok 1 - systemd-analyze verify"
else
	echo "$out" | sed 's/^/# /'
	echo "not ok 1 - systemd-analyze verify"
	exit 1
fi
