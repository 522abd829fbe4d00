#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""libbpfvm as a stranger gets it: installed into an empty folder, then the
example of docs/libbpfvm.md built against that with pkg-config and run.

Usage: libbpfvm_install.py BUILD SOURCE CLANG
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

build, source, clang = sys.argv[1:4]
EXAMPLES = os.path.join(source, "docs/examples")


def sh(*args, **kw):
    r = subprocess.run(args, capture_output=True, text=True, **kw)
    if r.returncode:
        sys.exit(f"{' '.join(args)}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def check(what, ok, detail=""):
    print(("ok - " if ok else "not ok - ") + what + (f": {detail}" if detail and not ok else ""))
    if not ok:
        sys.exit(1)


def find(root, name):
    found = [os.path.join(d, name) for d, _, files in os.walk(root) if name in files]
    check(name + " is installed", len(found) == 1, str(found))
    return found[0]


def names(*command):
    return {line.split()[-1].split("@")[0] for line in sh(*command).splitlines() if " T " in line or " D " in line}


def run(work):
    dest = os.path.join(work, "dest")
    sh("meson", "install", "-C", build, "--no-rebuild", "--quiet", env={**os.environ, "DESTDIR": dest})
    header, pc = find(dest, "bpfvm.h"), find(dest, "libbpfvm.pc")
    archive, shared = find(dest, "libbpfvm.a"), find(dest, "libbpfvm.so")

    # what is visible
    for path, flags in ((archive, ["-g", "--defined-only"]), (os.path.realpath(shared), ["-D", "--defined-only"])):
        seen = names("nm", *flags, path)
        other = {n for n in seen if not n.startswith("bpfvm_")}
        check(os.path.basename(path) + " shows bpfvm_* alone", "bpfvm_run" in seen and not other, str(other))
    declared = set(re.findall(r"\b(bpfvm_\w+)\(", open(header).read())) - {"bpfvm_call"}
    check("all that is declared is there", declared <= names("nm", "-D", "--defined-only", shared),
          str(declared - names("nm", "-D", "--defined-only", shared)))
    check("soname", "libbpfvm.so.0" in sh("readelf", "-d", shared))

    # pkg-config, told where it has been installed
    prefix = re.search(r"^prefix=(.*)$", open(pc).read(), re.M).group(1)
    folder = os.path.join(work, "pc")
    os.mkdir(folder)
    text = open(pc).read().replace("prefix=" + prefix, "prefix=" + dest + prefix, 1)
    with open(os.path.join(folder, "libbpfvm.pc"), "w") as f:
        f.write(text)
    env = {**os.environ, "PKG_CONFIG_PATH": folder}
    cflags = sh("pkg-config", "--cflags", "libbpfvm", env=env).split()
    libs = sh("pkg-config", "--libs", "libbpfvm", env=env).split()
    static_libs = sh("pkg-config", "--static", "--libs", "libbpfvm", env=env).split()
    check("no dependency is in the way of a shared link", not any("-lbpf" == l or "-lelf" == l for l in libs), str(libs))

    obj = os.path.join(work, "admit.bpf.o")
    sh(clang, "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-idirafter", "/usr/include/x86_64-linux-gnu", "-c",
       os.path.join(EXAMPLES, "admit.bpf.c"), "-o", obj)
    doc = open(os.path.join(source, "docs/libbpfvm.md")).read()
    expected = re.search(r"^\$ \./admit admit\.bpf\.o\n(.*?)^```", doc, re.M | re.S).group(1)
    program = os.path.join(work, "admit")
    strict = ["-Wall", "-Wextra", "-Werror", "-pedantic"]

    def example(what, compiler, libraries, **run_env):
        sh(*compiler, *strict, os.path.join(EXAMPLES, "admit.c"), "-o", program, *cflags, *libraries)
        out = sh(program, obj, env={**os.environ, **run_env})
        check("the example, " + what, out == expected, out)

    lib_dir = os.path.dirname(shared)
    example("shared", ["gcc", "-std=c11"], libs, LD_LIBRARY_PATH=lib_dir)
    check("… by its soname", "libbpfvm.so.0" in sh("readelf", "-d", program))
    example("as C++", ["g++", "-std=c++17", "-x", "c++"], ["-x", "none", *libs], LD_LIBRARY_PATH=lib_dir)
    example("by clang", [clang, "-std=c11"], libs, LD_LIBRARY_PATH=lib_dir)
    alone = os.path.join(work, "static")
    os.mkdir(alone)
    shutil.copy(archive, alone)
    example("static", ["gcc", "-std=c99"], ["-L" + alone, *static_libs])
    check("… and needs no libbpfvm.so", "libbpfvm" not in sh("readelf", "-d", program))

    # the header alone, in each language
    for compiler in (["gcc", "-std=c99"], ["g++", "-std=c++11", "-x", "c++"]):
        sh(*compiler, *strict, "-fsyntax-only", "-include", header, "-c", "/dev/null", "-x", "none")
        check("the header by itself: " + compiler[0], True)

    # the manual shows what is built
    code = open(os.path.join(EXAMPLES, "admit.c")).read() + open(os.path.join(EXAMPLES, "admit.bpf.c")).read()
    blocks = re.findall(r"^```c\n(.*?)^```", doc, re.M | re.S)
    check("the manual's code is the example's", len(blocks) == 2 and all(b in code for b in blocks))


with tempfile.TemporaryDirectory(prefix="libbpfvm-") as tmp:
    run(tmp)
