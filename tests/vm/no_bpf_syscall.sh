#!/bin/sh
# SPDX-License-Identifier: MIT
# Loads objects under strace and demands that bpf(2) is never called, by us or
# by libbpf: neither while it opens and relocates, nor as a probe for features.
# usage: no_bpf_syscall.sh TEST_OBJECT_PROGRAM
command -v strace >/dev/null || { echo "skipped: strace is not installed"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
if ! strace -f -qq -o "$dir/probe" true; then
	echo "skipped: this place forbids ptrace"
	exit 77
fi
unset CK_TAP_LOG_FILE_NAME
CK_VERBOSITY=normal ASAN_OPTIONS=detect_leaks=0 \
	strace -f -qq -e trace=bpf,execve -o "$dir/calls" "$1" >"$dir/out" 2>&1 || { cat "$dir/out"; exit 1; }
grep -q execve "$dir/calls" || { echo "strace saw nothing"; exit 1; }
if grep 'bpf(' "$dir/calls"; then
	echo "bpf(2) was called"
	exit 1
fi
