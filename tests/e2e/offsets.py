#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Probes at every instruction of hot libc functions of real programs under load.
UPROBED_OFFSETS says at how many functions (25)."""

import json
import os
import re
import subprocess
import threading

from harness import Sandbox, Untouched, maps, need, need_root, run, wait_for
from interpreter import Script
from redis import Redis

WORDS = 1000  # that a command takes
FUNCTIONS = int(os.environ.get("UPROBED_OFFSETS", "25"))


class Code:
    """What objdump says of a stretch of code: where instructions begin, which
    of them end a block, and what is jumped to."""

    def __init__(self, path, ranges):
        self.insns, self.ends, self.targets = [], set(), set()
        for lo, hi in ranges:
            text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-w", "--start-address=%#x" % lo,
                                   "--stop-address=%#x" % hi, path], capture_output=True, text=True).stdout
            for m in re.finditer(r"^ +([0-9a-f]+):\t(\S+)(.*)$", text, re.M):
                self.add(int(m.group(1), 16), m.group(2), m.group(3))

    def add(self, at, op, rest):
        self.insns.append(at)
        if re.match(r"(j|call|ret|loop|ud2|hlt|syscall|bnd|notrack|rep)", op):
            self.ends.add(at)
            m = re.search(r"\b([0-9a-f]+) <", rest)
            if m:
                self.targets.add(int(m.group(1), 16))

    def same_count(self):
        """Pairs of neighbours of which one never runs without the other."""
        for a, b in zip(self.insns, self.insns[1:]):
            if a not in self.ends and b not in self.targets and b - a < 16:
                yield a, b


def state(pid):
    """"syscall N" while the process waits in one."""
    with open("/proc/%d/syscall" % pid) as f:
        n = f.read().split()[0]
    return "syscall " + n if n.isdigit() else n


def libc_of(pid):
    return next(m[5].strip() for m in maps(pid) if len(m) > 5 and "/libc.so" in m[5])


def hot_functions(box, pid, n):
    """The libc functions that run most: (address, size)."""
    doc = box.ctl_json("count", "libc:*", "-p", pid, "--for", "2s")
    hot = [c["probe"] for c in sorted(doc["counts"], key=lambda c: -c["count"]) if c["count"]][:n]
    base = min(int(m[0].split("-")[0], 16) for m in maps(pid) if len(m) > 5 and "/libc.so" in m[5])
    ranges = {}
    for s in box.ctl_json("symbols", *hot, "-p", pid)["symbols"]:
        ranges[int(s["address"], 16) - base] = s["bytes"]
    return sorted((a, a + size) for a, size in ranges.items() if size)


def probeable(box, pid, addrs):
    """What `symbols` says of each address."""
    tactics = {}
    for i in range(0, len(addrs), WORDS):
        for s in box.ctl_json("symbols", *["libc:%#x" % a for a in addrs[i:i + WORDS]], "-p", pid)["symbols"]:
            tactics[int(s["probe"].rsplit(":", 1)[1], 16)] = s["entry"]
    return tactics


def in_commands(addrs, code):
    """As many as a command takes, cut where no jump of ours can reach across."""
    part = []
    for a in addrs:
        if len(part) >= WORDS - 200 and code.ends & set(range(part[-1], a)):
            yield part
            part = []
        part.append(a)
    if part:
        yield part


def count_at(box, pid, addrs, code, work):
    """All at once, by as many commands as that takes."""
    running, counts = [], {}
    for part in in_commands(addrs, code):
        running.append(box.ctl_start("count", *["libc:%#x" % a for a in part], "-p", pid, "--json"))
        running[-1].wait_attached()
    work()
    for doc in [json.loads(count.interrupt()) for count in running]:
        assert doc["missed"] == 0, doc["missed"]
        counts.update({int(c["probe"].rsplit(":", 1)[1], 16): c["count"] for c in doc["counts"]})
    return counts


def every_instruction(box, pid, ranges, work, threads):
    """Probes all instructions of the libc functions in RANGES that a jump fits,
    at once, while WORK runs; then some of those that take a punned jump."""
    code = Code(libc_of(pid), ranges)
    tactics = probeable(box, pid, code.insns)
    jumps = [a for a in code.insns if tactics.get(a) == "jump"]
    assert len(jumps) > 0.5 * len(code.insns), (len(jumps), len(code.insns))
    counts = count_at(box, pid, jumps, code, work)
    ran = {a: n for a, n in counts.items() if n}
    pairs = 0
    for a, b in code.same_count():
        if a in counts and b in counts:
            # of each thread, one call may be under way at either end
            assert abs(counts[a] - counts[b]) <= 4 * threads, (hex(a), counts[a], hex(b), counts[b])
            pairs += counts[a] > 0
    assert pairs > len(ran) / 3, (pairs, len(ran))
    punned = [a for a in code.insns if tactics.get(a) == "punned"]
    for a in punned[::1 + len(punned) // 10]:
        count_at(box, pid, [a], code, work)
    print("# %d functions, %d instructions: %d by jump (%d ran, %d pairs agree), %d punned" %
          (len(ranges), len(code.insns), len(jumps), len(ran), pairs, len(punned)))
    return ran


def test_every_instruction_of_hot_functions_in_redis():
    need("objdump")
    with Sandbox() as box:
        r = Redis(box)
        load = box.start("redis-benchmark", "-s", r.sock, "-t", "set,get,incr,lpush,lrange_100,mset", "-l", "-q", "-r",
                         "1000", "-n", "50000")
        with Untouched(r.pid):
            ranges = hot_functions(box, r.pid, FUNCTIONS)
            load.terminate()
            load.wait()
            r.cli("set", "sentinel", "here")
            ran = every_instruction(box, r.pid, ranges, lambda: r.benchmark("set,get,incr,lpush,mset", 10000), 5)
            assert max(ran.values()) >= 10000
            assert r.cli("get", "sentinel") == "here"


def test_every_instruction_of_hot_functions_in_python():
    """Its own digest of real work says whether anything went wrong."""
    need("objdump")
    with Sandbox() as box:
        s = Script(box)
        expected = s.round(200, 2)
        with Untouched(s.pid):
            busy = threading.Event()
            t = threading.Thread(target=lambda: [s.round(200, 2) for _ in iter(busy.is_set, True)])
            t.start()
            try:
                ranges = hot_functions(box, s.pid, FUNCTIONS)
            finally:
                busy.set()
                t.join()

            def work():
                assert s.round(200, 2) == expected
            every_instruction(box, s.pid, ranges, work, 3)


def test_around_a_call_that_waits():
    """A thread waits in the very system call that is displaced: it is moved in,
    counted when it goes on, and moved out when it goes on waiting."""
    need_root()
    need("objdump")
    with Sandbox() as box:
        cat = box.start("/bin/cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_for(lambda: state(cat.pid) == "syscall 0", "cat waits in read")
        (sym,) = box.ctl_json("symbols", "libc:read", "-p", cat.pid)["symbols"]
        base = min(int(m[0].split("-")[0], 16) for m in maps(cat.pid) if len(m) > 5 and "/libc.so" in m[5])
        start = int(sym["address"], 16) - base
        code = Code(libc_of(cat.pid), [(start, start + sym["bytes"])])
        tactics = probeable(box, cat.pid, code.insns)
        jumps = [a for a in code.insns if tactics[a] == "jump"]
        assert len(jumps) > 10, tactics

        def echo(text):
            cat.stdin.write(text)
            cat.stdin.flush()
            assert cat.stdout.readline() == text
            wait_for(lambda: state(cat.pid) == "syscall 0", "cat waits again")

        with Untouched(cat.pid):
            for n in (0, 1, 3):
                counts = count_at(box, cat.pid, jumps, code, lambda: [echo(b"some text\n") for _ in range(n)])
                assert max(counts.values()) == n, (n, counts)
            # twice, one on top of the other
            count_at(box, cat.pid, jumps, code, lambda: count_at(box, cat.pid, jumps, code, lambda: None))
        echo(b"the end\n")
        cat.stdin.close()
        assert cat.wait(10) == 0


if __name__ == "__main__":
    run()
