#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""python3 running a script: exact counts of what the script did, and the
script's output is the same with and without probes."""

import json
import re

from harness import Asked, Sandbox, Untouched, maps, run, total

PYTHON = "/usr/bin/python3"

# Works in rounds that its stdin asks for: each calls divmod and getppid a known
# number of times, encodes as many dictionaries (PyMapping_Items once each), and
# prints a digest of real work.
SCRIPT = """
import sys, os, json, re, hashlib, threading, zlib
def work(n):
    h = hashlib.sha256()
    for i in range(n):
        q, r = divmod(i * 7919, 97)
        os.getppid()
        h.update(json.dumps({"q": q, "r": r, "s": re.sub("[0-9]", "x", str(i))}).encode())
    h.update(zlib.compress(b"uprobed" * 1000))
    return h.hexdigest()
print("ready", flush=True)
for line in sys.stdin:
    n, threads = map(int, line.split())
    out = [None] * threads
    def one(k): out[k] = work(n)
    ts = [threading.Thread(target=one, args=(k,)) for k in range(threads)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    print(hashlib.sha256("".join(out).encode()).hexdigest(), flush=True)
"""


class Script(Asked):
    def __init__(self, box):
        super().__init__(box, PYTHON, "-c", SCRIPT)

    def round(self, n, threads):
        return self.ask("%d %d" % (n, threads))


def private_text_mib(pid):
    """Of the main program."""
    text = next(m[0] for m in maps(pid) if "x" in m[1] and len(m) > 5 and "python" in m[5])
    with open("/proc/%d/smaps" % pid) as f:
        return int(re.search(text + r".*?Private_Dirty: *(\d+)", f.read(), re.S).group(1)) / 1024


def test_what_the_copies_of_its_text_take_is_said():
    with Sandbox() as box:
        s = Script(box)
        dry = box.ctl("count", ":*", "-p", s.pid, "--dry-run")
        said = float(re.search(r"Copies of the probed text would take ([0-9.]+) MiB\.", dry.stderr).group(1))
        assert private_text_mib(s.pid) == 0
        with Untouched(s.pid):
            count = box.ctl_start("count", ":*", "-p", s.pid)
            count.wait_attached()
            now = private_text_mib(s.pid)
            assert said > 1 and abs(now - said) < 0.1, (now, said)
            count.interrupt()
            assert "Copies of the probed text take %.1f MiB." % said in count.err(), count.err()
        assert box.ctl("count", ":Py*Long*", "-p", s.pid, "--dry-run").stderr.find("Copies") < 0


def test_counts_and_output():
    with Sandbox() as box:
        s = Script(box)
        plain = s.round(2000, 3)
        with Untouched(s.pid):
            count = box.ctl_start("count", ":PyMapping_Items", "libc:getppid", "-p", s.pid, "--json")
            count.wait_attached()
            assert s.round(2000, 3) == plain
            doc = json.loads(count.interrupt())
        assert total(doc, "PyMapping_Items") == 6000, doc["counts"]
        assert total(doc, "getppid") == 6000, doc["counts"]
        assert doc["missed"] == 0
        assert s.round(2000, 3) == plain


def test_whole_interpreter():
    """Every function of the interpreter that can be probed, at once."""
    with Sandbox() as box:
        s = Script(box)
        plain = s.round(500, 2)
        with Untouched(s.pid):
            count = box.ctl_start("count", ":*", "-p", s.pid, "--json")
            count.wait_attached()
            assert s.round(500, 2) == plain
            doc = json.loads(count.interrupt())
        assert total(doc, "PyMapping_Items") == 1000, [c for c in doc["counts"] if "Mapping" in c["symbol"]]
        assert s.round(500, 2) == plain


def test_latency_in_threads():
    with Sandbox() as box:
        s = Script(box)
        plain = s.round(1000, 4)
        with Untouched(s.pid):
            latency = box.ctl_start("latency", "libc:getppid", "-p", s.pid, "--json")
            latency.wait_attached()
            assert s.round(1000, 4) == plain
            doc = json.loads(latency.interrupt())
        (h,) = doc["latencies"]
        assert h["histogram"]["count"] == 4000, h["histogram"]["count"]


def test_attach_and_detach_while_it_works():
    with Sandbox() as box:
        s = Script(box)
        plain = s.round(3000, 2)
        with Untouched(s.pid):
            s.p.stdin.write("3000 2\n" * 6)
            s.p.stdin.flush()
            for _ in range(10):
                box.ctl_json("count", "libc:mal*", "libc:free", ":PyDict_*", "-p", s.pid, "--for", "50ms")
            for _ in range(6):
                assert s.p.stdout.readline().strip() == plain


if __name__ == "__main__":
    run()
