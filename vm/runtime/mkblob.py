#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the runtime blob: compiles the sources freestanding, links them with
blob.ld, refuses the result if it needs anything at load time, and writes it as
a C array with the offsets of its functions.

Called by meson (vm/runtime/meson.build)."""
import argparse
import os
import re
import struct
import subprocess
import sys
import tempfile

CFLAGS = """-std=gnu17 -ffreestanding -fPIC -O2 -mgeneral-regs-only -mcx16 -fno-stack-protector
-fcf-protection=none -fno-jump-tables -fno-asynchronous-unwind-tables -fvisibility=hidden -fno-builtin
-fno-strict-aliasing -fno-ident -ffunction-sections -fdata-sections -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers
-Wno-sign-compare -U_FORTIFY_SOURCE -DUMAP_FREESTANDING""".split()
# gcc makes calls of memcpy out of loops even so; clang does not know the option
GCC_CFLAGS = ["-fno-tree-loop-distribute-patterns"]
# gcc does not unroll loops at -O2; with them clang's blob is an eighth larger
CLANG_CFLAGS = ["-fno-unroll-loops"]
# What nobody calls at each hit is compiled for size.
SMALL = ("text.c", "printk.c", "trap_calls.c")


def run(cmd):
    done = subprocess.run(cmd, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("runtime blob: failed: " + " ".join(cmd))
    return done.stdout


def is_clang(cc):
    return "clang" in run(cc + ["--version"])


def sections(elf):
    """name -> (type, flags, size, offset) of an ELF64 file."""
    data = open(elf, "rb").read()
    shoff, = struct.unpack_from("<Q", data, 40)
    entsize, num, strndx = struct.unpack_from("<HHH", data, 58)
    heads = [struct.unpack_from("<IIQQQQIIQQ", data, shoff + i * entsize) for i in range(num)]
    strings = heads[strndx][4]
    found = {}
    for h in heads:
        end = data.index(b"\0", strings + h[0])
        found[data[strings + h[0]:end].decode()] = (h[1], h[2], h[5], h[4])
    return found


def check(elf):
    relocs = ("R_X86_64_",)
    listing = run(["readelf", "-rW", elf])
    if any(r in listing for r in relocs):
        sys.exit("runtime blob: needs relocations:\n" + listing)
    for name, (kind, flags, size, _) in sections(elf).items():
        if flags & 2 and name != ".text" and size:
            sys.exit(f"runtime blob: section {name} of {size} bytes; only code and constants are allowed")
        if name in (".got", ".data", ".rela") and size:
            sys.exit(f"runtime blob: section {name} is not empty")


def vector_use(elf):
    """-mgeneral-regs-only holds for C; this holds for inline assembly, too."""
    text = run(["objdump", "-d", "--no-show-raw-insn", elf])
    bad = re.findall(r"^.*%[xyz]mm\d.*$|^.*\bld?mxcsr\b.*$", text, re.M)
    if bad:
        sys.exit("runtime blob: uses vector registers:\n" + "\n".join(bad[:5]))


def functions(elf):
    found = {}
    for line in run(["nm", elf]).splitlines():
        m = re.match(r"([0-9a-f]+) [Tt] (rt_\w+|thread_rec_slow)$", line)
        if m:
            found[m[2]] = int(m[1], 16)
    return found


def write_c(path, name, code, funcs):
    with open(path, "w") as f:
        f.write("/* Made by vm/runtime/mkblob.py. */\n")
        for func, off in sorted(funcs.items()):
            f.write(f"#define {name.upper()}_OFF_{func} {off:#x}u\n")
        f.write(f"static const u8 {name}_bytes[] __attribute__((aligned(64))) = {{\n")
        for i in range(0, len(code), 16):
            f.write("\t" + "".join(f"{b:#04x}," for b in code[i:i + 16]) + "\n")
        f.write("};\n")


def write_deps(path, target, depfiles):
    deps = set()
    for name in depfiles:
        text = open(name).read().replace("\\\n", " ")
        deps.update(text.split(":", 1)[1].split())
    with open(path, "w") as f:
        f.write(target + ": " + " ".join(sorted(deps)) + "\n")


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--cc", required=True, help="compiler command, separated by |")
    ap.add_argument("--root", required=True)
    ap.add_argument("--script", required=True)
    ap.add_argument("--name", default="blob", help="of the array, and of the offsets")
    ap.add_argument("--max", type=int, default=256 << 10, help="bytes")
    ap.add_argument("--out", required=True)
    ap.add_argument("--depfile", required=True)
    ap.add_argument("sources", nargs="+")
    args = ap.parse_args()
    cc = args.cc.split("|")
    cflags = CFLAGS + (CLANG_CFLAGS if is_clang(cc) else GCC_CFLAGS) + ["-I" + args.root]
    with tempfile.TemporaryDirectory(prefix="mkblob-") as tmp:
        objs, deps = [], []
        for i, src in enumerate(args.sources):
            obj = os.path.join(tmp, f"{i}.o")
            deps.append(os.path.join(tmp, f"{i}.d"))
            size = ["-Os"] if os.path.basename(src) in SMALL else []
            run(cc + cflags + size + ["-MD", "-MF", deps[-1], "-MT", "x", "-c", src, "-o", obj])
            objs.append(obj)
        elf = os.path.join(tmp, "blob.elf")
        run(["ld", "-m", "elf_x86_64", "-pie", "--no-dynamic-linker", "-z", "noexecstack", "-z", "norelro",
             "--no-undefined", "--build-id=none", "--gc-sections", "-T", args.script, "-o", elf] + objs)
        check(elf)
        vector_use(elf)
        _, _, size, off = sections(elf)[".text"]
        if size > args.max:
            sys.exit(f"runtime blob: {size} bytes, at most {args.max} are allowed")
        with open(elf, "rb") as f:
            f.seek(off)
            code = f.read(size)
        write_c(args.out, args.name, code, functions(elf))
        write_deps(args.depfile, args.out, deps + [])


if __name__ == "__main__":
    main()
