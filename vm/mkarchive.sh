#!/bin/sh
# SPDX-License-Identifier: MIT
# mkarchive.sh INPUT.a OUTPUT.a: the same code as one object, in which only
# bpfvm_* can be seen from outside, so that the names of what is inside cannot
# meet those of the program that links it.
set -e
obj="$2.o"
ld -r -o "$obj" --whole-archive "$1"
objcopy --wildcard --keep-global-symbol='bpfvm_*' "$obj"
rm -f "$2"
ar rcsD "$2" "$obj"
rm -f "$obj"
