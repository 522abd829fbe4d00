#!/bin/sh
# SPDX-License-Identifier: MIT
# The part of maps that goes into targets must stand alone: compiled as
# vm/runtime does and linked, it refers to nothing outside, has no writable data
# and needs no relocation. Arguments: compiler, source root, source files.
set -eu
cc=$1 root=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "1..3"

flags="-std=gnu17 -I$root -D_GNU_SOURCE -DUMAP_FREESTANDING -ffreestanding -fPIC -O2 -mgeneral-regs-only -mcx16
	-fno-stack-protector -fcf-protection=none -fno-jump-tables -fvisibility=hidden -nostdlib"
if "$cc" --version | grep -q 'Free Software'; then
	flags="$flags -fno-tree-loop-distribute-patterns"
fi
objs=
for src; do
	obj=$dir/$(basename "$src").o
	# shellcheck disable=SC2086
	"$cc" $flags -c "$src" -o "$obj"
	objs="$objs $obj"
done
# shellcheck disable=SC2086
ld -r -o "$dir/all.o" $objs
# shellcheck disable=SC2086
ld -shared -o "$dir/all.so" $objs

report()
{
	if [ -z "$2" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1"
		echo "$2" | sed 's/^/# /'
	fi
}
report "no outside symbol" "$(nm -u "$dir/all.o")"
report "no writable data" "$(size -A "$dir/all.o" | awk '/^\.(data|bss|tdata|tbss)/ && $2')"
report "no relocation" "$(readelf -rW "$dir/all.so" | grep R_X86_64 || true)"
