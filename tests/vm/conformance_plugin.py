#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bpf_conformance_plugin as a runner of the public suite uses it: every case of
the directories given, in both modes, and how it takes what is no case.

Usage: conformance_plugin.py PLUGIN DIR…; a directory that is not there is
skipped, loudly.
"""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

MODES = ("--interpret", "--jit")


def read_case(path):
    case = {}
    with open(path) as f:
        for line in f:
            key, _, value = line.rstrip("\n").partition(":")
            case[key] = value.strip()
    return case


def run(args, program):
    return subprocess.run([plugin, *args], input=program + "\n", capture_output=True, text=True, timeout=60)


def refused(r):
    """Non-zero by its own exit, not by a signal, with words and no result."""
    return r.returncode > 0 and r.stderr.strip() and not r.stdout


def judge(case, mode):
    r = run([a for a in (case["mem"], mode) if a], case["insns"])
    if case["kind"] != "run":
        return None if refused(r) else f"exit {r.returncode}, {r.stdout.strip()!r}, {r.stderr.strip()!r}"
    if r.returncode:
        return f"exit {r.returncode}: {r.stderr.strip()}"
    if int(r.stdout, 16) != int(case["result"], 16):
        return f"{r.stdout.strip()}, expected {case['result']}"
    return None


# name, arguments, program, what comes out: a number is r0, None a refusal or a trap
EXIT7 = "b700000007000000 9500000000000000"
PROTOCOL = [
    ("blanks", ["aa bb  cc "], "b7 00 00 00 07 00 00 00  95 00 00 00 00 00 00 00 ", 7),
    ("empty memory argument", ["", "--jit"], EXIT7, 7),
    ("no memory: r1 is 0", [], "bf10000000000000 9500000000000000", 0),
    ("no memory: r2 is 0", [], "bf20000000000000 9500000000000000", 0),
    ("length of memory", ["0102030405"], "bf20000000000000 9500000000000000", 5),
    ("memory is writable", ["00"], "7201000005000000 7110000000000000 9500000000000000", 5),
    ("upper case", ["AB"], "7110000000000000 9500000000000000", 0xAB),
    ("a null pointer", [], "7910000000000000 9500000000000000", None),
    ("one byte past the memory", ["0011223344556677"], "7110080000000000 9500000000000000", None),
    ("before the memory's page", ["00"], "1701000000200000 7110000000000000 9500000000000000", None),
    ("stack above the frame", [], "7a0a000000000000 b700000000000000 9500000000000000", None),
    ("stack below the frame", [], "7a0af8fd00000000 b700000000000000 9500000000000000", None),
    ("stack below by a computed address", [],
     "bfa1000000000000 1701000000002000 7a01000000000000 b700000000000000 9500000000000000", None),
    ("bytes that are no whole instruction", [], "b7000000", None),
    ("no hex", [], "hello", None),
    ("memory that is no hex", ["xyz"], EXIT7, None),
    ("an unknown option", ["--fast"], EXIT7, None),
    ("an unknown helper", [], "8500000040420f00 9500000000000000", None),
]


def protocol(row, mode):
    name, args, program, want = row
    r = run([*args, mode], program)
    if want is None:
        return None if refused(r) else f"{name}: exit {r.returncode}, {r.stdout.strip()!r}, {r.stderr.strip()!r}"
    if r.returncode or int(r.stdout, 16) != want:
        return f"{name}: exit {r.returncode}, {r.stdout.strip()!r}, {r.stderr.strip()!r}"
    return None


plugin = sys.argv[1]
jobs = [(f"protocol: {row[0]} {mode}", protocol, row, mode) for row in PROTOCOL for mode in MODES]
skipped = []
for folder in sys.argv[2:]:
    if not os.path.isdir(folder):
        skipped.append(folder)
        continue
    for name in sorted(os.listdir(folder)):
        if name.endswith(".test"):
            case = read_case(os.path.join(folder, name))
            jobs += [(f"{case['kind']}: {name} {mode}", judge, case, mode) for mode in MODES]

failed = 0
counts = {}
with ThreadPoolExecutor(2) as pool:
    for (name, _, _, _), wrong in zip(jobs, pool.map(lambda j: j[1](j[2], j[3]), jobs)):
        kind = name.split(":")[0]
        passed, total = counts.get(kind, (0, 0))
        counts[kind] = (passed + (not wrong), total + 1)
        if wrong:
            failed += 1
            print(f"not ok {name}: {wrong}")
for kind, (passed, total) in counts.items():
    print(f"{kind}: {passed} of {total}")
for folder in skipped:
    print(f"skipped: no cases in {folder}")
sys.exit(1 if failed else 0)
