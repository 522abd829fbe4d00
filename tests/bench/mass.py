#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What it costs to probe every function of a large program at once: the table "Whole programs at once" of
docs/injector.md.

    mass.py [--rounds N] [--functions N] [PROGRAM ARG…]

Without PROGRAM, a C program with 40,000 functions is generated. Times are of `bpfctl count ':*' -p PID` from its
start until it says that it is attached; "cold" is the first time that a daemon sees the file.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from harness import Sandbox, Untouched, foreign_mappings, maps, memory_kib, wait_for  # noqa: E402

FILES = 8


def source(first, count, last):
    """Functions of the sizes and kinds that compilers make: leaves, loops, switches, tail calls, calls in a row."""
    out = ["extern unsigned long sink[64];"]
    for n in range(first, first + count):
        callee = n + 1 if n + 1 < last else None
        call = "f%d(a - 1, b ^ %d)" % (callee, n) if callee is not None and n % 16 != 15 else "a * b"
        if call.startswith("f"):
            out.append("unsigned long f%d(unsigned long, unsigned long);" % callee)
        body = {
            0: "return a > 1 ? %s : b;" % call,
            1: "unsigned long r = 0; for (unsigned long i = 0; i < (b & 7); i++) r += sink[i] * a; if (a) r += %s;"
               " return r + 1;" % call,
            2: "switch (b & 7) { case 0: a += 3; break; case 1: a ^= b; break; case 2: sink[1]++; break; case 3: a <<= 1;"
               " break; case 4: a -= b; break; case 5: sink[a & 63] = b; break; default: a = ~a; } return a ? %s : 0;"
               % call,
            3: "sink[%d] += a; return %s + sink[%d];" % (n & 63, call, n * 7 & 63),
        }[n % 4]
        out.append("__attribute__((noinline)) unsigned long f%d(unsigned long a, unsigned long b) { %s }" % (n, body))
    return "\n".join(out) + "\n"


def generate(box, functions):
    objects = []
    for i in range(FILES):
        a, b = functions * i // FILES, functions * (i + 1) // FILES
        path = "%s/f%d.c" % (box.dir, i)
        with open(path, "w") as f:
            f.write(source(a, b - a, functions))
        objects.append(path)
    with open(box.dir + "/main.c", "w") as f:
        f.write("#include <unistd.h>\nunsigned long sink[64];\nunsigned long f0(unsigned long, unsigned long);\n"
                "int main(void) { for (unsigned long i = 0;; i++) { sink[0] += f0(8, i); usleep(1000); } }\n")
    program = box.dir + "/mass"
    subprocess.run(["gcc", "-O2", "-o", program, box.dir + "/main.c"] + objects, check=True)
    return program


def family_kib(pid):
    """The daemon and its workers."""
    kids = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    total = 0
    for p in [pid] + [int(k) for k in kids]:
        try:
            total += memory_kib(p, "Pss")
        except OSError:
            pass
    return total


def milliseconds(text):
    number, unit = re.search(r"stood still (?:for )?([0-9.]+) (µs|us|ms|s)\b", text).groups()
    return float(number) * {"µs": 1e-3, "us": 1e-3, "ms": 1, "s": 1e3}[unit]


def one(box, pid, specs):
    """One attach and detach: seconds of each, ms stood still, private KiB more, daemon KiB while attached."""
    before = memory_kib(pid, "Private_Dirty")
    start = time.monotonic()
    run = box.ctl_start("count", *specs, "-p", pid, "--top", "5")
    wait_for(lambda: run.p.poll() is not None or "stood still" in run.err(), "it is attached", 60)
    attached = time.monotonic() - start
    assert run.p.poll() is None, run.err()
    still = milliseconds(run.err())
    private = memory_kib(pid, "Private_Dirty") - before
    daemon = family_kib(box.daemon.pid)
    start = time.monotonic()
    run.interrupt()
    return attached, time.monotonic() - start, still, private, daemon, run.err()


def span(values, scale=1.0, digits=2):
    return "%.*f (%.*f – %.*f)" % (digits, statistics.median(values) * scale, digits, min(values) * scale, digits,
                                   max(values) * scale)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--functions", type=int, default=40000)
    p.add_argument("--spec", action="append", help="default ':*'; may be repeated")
    p.add_argument("-v", action="store_true")
    p.add_argument("argv", nargs=argparse.REMAINDER)
    o = p.parse_args()
    specs = o.spec or [":*"]
    with Sandbox(daemon=False) as box:
        argv = o.argv or [generate(box, o.functions)]
        target = box.start(*argv)
        wait_for(lambda: any("x" in m[1] for m in maps(target.pid)), "it runs")
        time.sleep(1)  # a large program loads what it will need
        cold, warm = [], []
        with Untouched(target.pid):
            for i in range(o.rounds):
                box.start_daemon()
                for runs in (cold, warm):
                    runs.append(one(box, target.pid, specs))
                    if o.v:
                        print(runs[-1], file=sys.stderr)
                wait_for(lambda: not foreign_mappings(target.pid), "nothing is retired", 60)
                time.sleep(2)  # it gives memory back once a second
                after = family_kib(box.daemon.pid)
                box.daemon.terminate()
                box.daemon.wait(60)
        print(cold[-1][5].strip().splitlines()[0])
        both = cold + warm
        print("attach, cold: s          %s" % span([r[0] for r in cold]))
        print("attach, scan cached: s   %s" % span([r[0] for r in warm]))
        print("detach: s                %s" % span([r[1] for r in both]))
        print("stood still: ms          %s" % span([r[2] for r in both], 1, 1))
        print("private memory: MiB      %s" % span([r[3] for r in both], 1 / 1024, 1))
        print("daemon attached: MiB     %s, after the last detach %.1f" % (span([r[4] for r in both], 1 / 1024, 1),
                                                                       after / 1024))


if __name__ == "__main__":
    main()
