#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""redis-server under redis-benchmark: counts agree with redis's own, redis is
unharmed, and left as it was found."""

import json
import re
import subprocess

from harness import Sandbox, Untouched, need, need_root, run, total, wait_for


class Redis:
    def __init__(self, box, *options):
        need_root()
        server = need("redis-server")
        need("redis-benchmark")
        self.sock = box.dir + "/redis"
        self.p = box.start(server, "--port", "0", "--unixsocket", self.sock, "--save", "", *options)
        self.pid = self.p.pid
        wait_for(lambda: self.cli("ping", check=False) == "PONG", "redis answers")

    def cli(self, *args, check=True):
        r = subprocess.run(["redis-cli", "-s", self.sock, *args], capture_output=True, text=True)
        if check:
            assert r.returncode == 0, r.stderr
        return r.stdout.strip()

    def calls(self, command):
        m = re.search(r"cmdstat_%s:calls=(\d+)" % command, self.cli("info", "commandstats"))
        return int(m.group(1)) if m else 0

    def benchmark(self, tests, n):
        r = subprocess.run(["redis-benchmark", "-s", self.sock, "-t", tests, "-n", str(n), "-c", "10", "-P", "4",
                            "-r", "1000", "-q"], capture_output=True, text=True, timeout=60)
        assert r.returncode == 0 and "rror" not in r.stderr, r.stderr


def test_counts_are_exact():
    with Sandbox() as box:
        r = Redis(box)
        with Untouched(r.pid):
            count = box.ctl_start("count", ":setCommand", ":getCommand", ":incrCommand", ":lpushCommand",
                                  "-p", r.pid, "--json")
            count.wait_attached()
            before = {c: r.calls(c) for c in ("set", "get", "incr", "lpush")}
            r.benchmark("set,get,incr,lpush", 20000)
            after = {c: r.calls(c) for c in before}
            doc = json.loads(count.interrupt())
        assert doc["missed"] == 0, doc
        for c in before:
            assert after[c] - before[c] >= 20000
            assert total(doc, c + "Command") == after[c] - before[c], (c, before, after, doc["counts"])
        assert r.cli("ping") == "PONG"


def test_latency_has_every_call():
    with Sandbox() as box:
        r = Redis(box)
        with Untouched(r.pid):
            latency = box.ctl_start("latency", ":setCommand", "-p", r.pid, "--json")
            latency.wait_attached()
            r.benchmark("set", 20000)
            doc = json.loads(latency.interrupt())
        (h,) = doc["latencies"]
        assert h["histogram"]["count"] == 20000, h["histogram"]["count"]
        assert sum(b["count"] for b in h["histogram"]["buckets"]) == 20000
        assert 0 < h["histogram"]["min"] <= h["histogram"]["p50"] <= h["histogram"]["p99"] <= h["histogram"]["max"] * 1.07
        assert doc["missed"] == 0


def test_every_command_function_under_load():
    """A glob over all command functions while redis works; data stays right."""
    with Sandbox() as box:
        r = Redis(box)
        load = box.start("redis-benchmark", "-s", r.sock, "-t", "set,get,incr,lpush,lrange_100,mset", "-l", "-q", "-r",
                         "1000", "-n", "50000")
        with Untouched(r.pid):
            r.cli("set", "sentinel", "here")
            for _ in range(3):
                doc = box.ctl_json("count", ":*Command", "-p", r.pid, "--for", "1s")
                assert total(doc) > 1000, doc
                assert doc["missed"] == 0
            for i in range(200):
                assert r.cli("incr", "mine") == str(i + 1) if i % 50 == 0 else True
                if i % 50:
                    r.cli("incr", "mine")
            assert r.cli("get", "mine") == "200"
            assert r.cli("get", "sentinel") == "here"
            load.terminate()
            load.wait(10)
        assert r.cli("ping") == "PONG"


def test_whole_binary():
    """Every function of redis at once."""
    with Sandbox() as box:
        r = Redis(box)
        with Untouched(r.pid):
            count = box.ctl_start("count", ":*", "-p", r.pid, "--json")
            count.wait_attached()
            r.benchmark("set,get", 5000)
            doc = json.loads(count.interrupt())
        # two benchmarks of 5000 calls; redis calls each once for a command
        assert total(doc, "setCommand") == 5000 and total(doc, "getCommand") == 5000, doc["counts"][:9]
        assert r.cli("ping") == "PONG"


if __name__ == "__main__":
    run()
