#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Tools as people write them with libbpf, our own, on programs that we did not
write: what they say is compared with what was done."""

import os
import pty
import select
import subprocess
import time

from harness import VICTIMS, Asked, Sandbox, Tail, Untouched, maps, need, need_root, run, wait_for
from victims import bpf


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *argv):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(TERM="dumb", PS1="prompt> ", HISTFILE="/dev/null")
            os.execvp(argv[0], argv)
        self.seen = ""
        self.expect("prompt> ")

    def expect(self, text):
        end = time.monotonic() + 20
        while text not in self.seen:
            assert time.monotonic() < end, "%r never came: %r" % (text, self.seen)
            if select.select([self.fd], [], [], 1)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.split(text, 1)[1]

    def type(self, line):
        os.write(self.fd, line.encode() + b"\n")
        self.expect("prompt> ")

    def close(self):
        os.write(self.fd, b"\x04")
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def test_lines_typed_at_bash():
    need_root()
    need("bash")
    typed = ["echo one", "x=$((6 * 7)); echo $x", "", "true | cat   # with a remark", "# " + "long " * 40]
    with Sandbox() as box:
        t = Terminal("/bin/bash", "--norc", "--noprofile", "-i")
        try:
            with Untouched(t.pid):
                box.ctl("load", bpf("readline"), "-p", t.pid)
                tail = Tail(box, "lines", "line")
                for line in typed:
                    t.type(line)
                    got = tail.next()
                    want = line[:79]
                    assert got["text"] == want and int(got["length"]) == len(want) + 1, (got, line)
                    assert int(got["pid"]) == t.pid and got["comm"] == "bash", got
                box.ctl("unload", "readline")
            t.type("echo still here")
        finally:
            t.close()


def test_latency_of_host_lookups():
    """Of programs that are started under the probes, a name that cannot be among them."""
    need_root()
    need("getent")
    impossible = "x" * 70  # no label is that long, so that nobody is asked
    with Sandbox() as box:
        for name, status in (("localhost", 0), ("127.0.0.1", 0), (impossible, 2)):
            start = time.monotonic_ns()
            r = box.ctl("load", bpf("hosts"), "--", "getent", "ahosts", name, check=False)
            took = time.monotonic_ns() - start
            assert r.returncode == status, r
            (e,) = box.ctl_json("map", "dump", "lookups")["elements"]
            assert e["key"]["text"] == name[:63], e
            n = {k: int(v) for k, v in e["value"].items()}
            assert n["count"] == 1 and n["failed"] == (status != 0), n
            assert 0 < n["total_ns"] == n["longest_ns"] < took, (n, took)
            assert box.ctl_json("map", "dump", "begun")["elements"] == []
            box.ctl("unload", "hosts")


def test_function_latency():
    """Of sleeps: none is shorter than it was asked to be, and all are counted."""
    need_root()
    sleeps = [(0.002, 20), (0.02, 10), (0.1, 3)]
    script = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    seconds, n = line.split()
    for i in range(int(n)): time.sleep(float(seconds))
    print("slept", flush=True)
"""
    with Sandbox() as box:
        p = Asked(box, "/usr/bin/python3", "-c", script)
        with Untouched(p.pid):
            box.ctl("load", bpf("funclatency"))
            box.ctl("attach", "on_entry", "libc:clock_nanosleep", "-p", p.pid)
            box.ctl("attach", "on_return", "libc:clock_nanosleep", "-p", p.pid)
            done = 0
            for seconds, n in sleeps:
                p.ask("%s %d" % (seconds, n))
                done += n
                counts = {int(e["key"]): sum(int(v["value"]) for v in e["values"])
                          for e in box.ctl_json("map", "dump", "latency")["elements"]}
                assert sum(counts.values()) == done, counts
                least = int(seconds * 1e9).bit_length() - 1
                assert sum(c for slot, c in counts.items() if slot >= least) >= n, (seconds, counts)
                assert not any(c for slot, c in counts.items() if slot < 20), counts
            box.ctl("unload", "funclatency")


def functions_of(pid, program):
    """Of the main program, by address in the process: (start, end, name)."""
    start = min(int(m[0].split("-")[0], 16) for m in maps(pid) if len(m) > 5 and m[5].strip() == program)
    out = subprocess.run(["nm", "-S", "--defined-only", program], capture_output=True, text=True, check=True).stdout
    return [(start + int(f[0], 16), start + int(f[0], 16) + int(f[1], 16), f[3])
            for f in map(str.split, out.splitlines()) if len(f) == 4 and f[2] in "tT"]


def test_leak_finder():
    """What was lost, by the function that lost it; what was given back is not among it."""
    need_root()
    need("nm")
    sizes = {"malloc": 101, "calloc": 102, "realloc": 103, "aligned_alloc": 96, "posix_memalign": 105, "memalign": 106,
             "valloc": 107, "pvalloc": 4096, "large": 1 << 20, "mmap": 8192, "mremap": 8192}
    with Sandbox() as box:
        program = os.path.realpath(os.path.join(VICTIMS, "e2e_leaks"))
        p = Asked(box, program)
        p.ask("1")  # before anybody looks
        with Untouched(p.pid):
            box.ctl("load", bpf("leaks"), "-p", p.pid)
            p.ask("40")
            blocks = box.ctl_json("map", "dump", "blocks")["elements"]
            stacks = {int(e["key"]): e["value"] for e in box.ctl_json("map", "dump", "stacks")["elements"]}
            box.ctl("unload", "leaks")
        p.ask("1")
        functions = functions_of(p.pid, program)
    found = {}
    for b in blocks:
        frames = [int(x, 16) for x in stacks[int(b["value"]["stack"])]]
        names = [name for ip in frames for lo, hi, name in functions if lo < ip <= hi]
        assert "main" in names[1:], (b, frames, names)
        where = names[names.index("main") - 1]
        n, size = found.get(where, (0, 0))
        found[where] = n + 1, size + int(b["value"]["size"])
    assert found == {"leak_" + k: (40, 40 * size) for k, size in sizes.items()}, found


def answer(p, text):
    """Reads what P prints until TEXT has come."""
    seen = ""
    while text not in seen:
        piece = p.stdout.readline()
        assert piece, "%r never came: %r" % (text, seen)
        seen += piece
    return seen


def test_plain_text_of_tls():
    """Two processes that talk: what one writes the other reads, and the tool sees both."""
    need_root()
    openssl = need("openssl")
    with Sandbox() as box:
        subprocess.run([openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", box.dir + "/key", "-out",
                        box.dir + "/cert", "-subj", "/CN=localhost", "-days", "2"], check=True,
                       stderr=subprocess.DEVNULL)
        talk = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        server = box.start(openssl, "s_server", "-unix", box.dir + "/tls", "-cert", box.dir + "/cert", "-key",
                           box.dir + "/key", "-quiet", **talk)
        wait_for(lambda: os.path.exists(box.dir + "/tls"), "the server listens")
        client = box.start(openssl, "s_client", "-unix", box.dir + "/tls", "-quiet", **talk)
        client.stdin.write("first\n")
        client.stdin.flush()
        answer(server, "first\n")
        with Untouched(server.pid), Untouched(client.pid):
            box.ctl("load", bpf("tls"), "-p", server.pid, "-p", client.pid)
            tail = Tail(box, "messages", "message")
            for k, (a, b, line) in enumerate([(client, server, "a secret of the client"), (server, client, "one of the server"),
                                              (client, server, "x" * 300), (server, client, "the end")]):
                a.stdin.write(line + "\n")
                a.stdin.flush()
                answer(b, line)
                got = sorted((tail.next() for _ in range(2)), key=lambda m: m["direction"] != "WRITTEN")
                assert [m["direction"] for m in got] == ["WRITTEN", "READ"], got
                assert [int(m["pid"]) for m in got] == [a.pid, b.pid], (got, a.pid, b.pid)
                for m in got:
                    assert m["text"] == (line + "\n")[:127] and int(m["length"]) == len(line) + 1, (m, line)
                    assert m["comm"] == "openssl", m
            box.ctl("unload", "tls")
        client.stdin.write("still there\n")
        client.stdin.flush()
        answer(server, "still there\n")


if __name__ == "__main__":
    run()
