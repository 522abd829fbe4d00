#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Kinds of maps beyond arrays and hashes: filled by a probe in a real process,
then listed, asked and changed through bpfctl."""

import json
import os
import signal
import subprocess

from harness import BPFCTL, Sandbox, Tail, Untouched, run, wait_for
from victims import Victim, bpf


def results(box):
    return box.ctl_json("map", "dump", "results")["elements"][0]["value"]


def values(box, name):
    return [int(e["value"]) for e in box.ctl_json("map", "dump", name)["elements"]]


def attached(box, v, **programs):
    box.ctl("load", bpf("maps"))
    for prog, function in programs.items():
        box.ctl("attach", prog, ":" + function, "-p", v.pid)


def test_queue_and_stack():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            attached(box, v, on_push="two_returns", on_pop="tail_target")
            v.ask("two_returns 6")  # with 1 … 6
            assert int(results(box)["full"]) == -7, results(box)  # E2BIG
            assert values(box, "queue") == [3, 4, 5, 6]
            assert values(box, "stack") == [4, 3, 2, 1]
            v.ask("tail_caller 1")
            r = results(box)
            assert (int(r["emptied"]), int(r["popped"]), int(r["peeked"])) == (0, 3, 4), r
            assert values(box, "queue") == [4, 5, 6]
            assert box.ctl("map", "lookup", "queue").stdout == "value 4\n"
            assert box.ctl("map", "delete", "queue").stdout == "value 4\n"
            box.ctl("map", "update", "queue", "99")
            box.ctl("map", "update", "queue", "value", "18446744073709551615")
            assert values(box, "queue") == [5, 6, 99, 2 ** 64 - 1]
            r = box.ctl("map", "update", "queue", "7", check=False)
            assert r.returncode == 1 and "is full (4 elements)" in r.stderr, r
            box.ctl("map", "update", "queue", "7", "exist")
            assert values(box, "queue") == [6, 99, 2 ** 64 - 1, 7]
            r = box.ctl("map", "lookup", "queue", "1", check=False)
            assert r.returncode == 2 and "no keys" in r.stderr, r
            r = box.ctl("map", "lookup", "results", check=False)
            assert r.returncode == 2 and "wants a key" in r.stderr, r
            v.ask("tail_caller 5")
            assert int(results(box)["emptied"]) == -2, results(box)  # ENOENT
            r = box.ctl("map", "delete", "queue", check=False)
            assert r.returncode == 1 and "is empty" in r.stderr, r
            box.ctl("detach", "--all")


CALLERS = """
import os, sys, threading
ends = [threading.Event() for _ in range(3)]
done = threading.Barrier(4)
def work(i):
    for _ in range((i + 1) * 100):
        os.getppid()
    done.wait()
    ends[i].wait()
threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
print("ready", flush=True)
sys.stdin.readline()
for t in threads:
    t.start()
done.wait()
print(*[t.native_id for t in threads], flush=True)
for line in sys.stdin:
    i = int(line)
    ends[i].set()
    threads[i].join()
    print("ended", flush=True)
"""


def test_threads_of_python():
    """TASK_STORAGE, a spin lock and an LPM_TRIE, used by python's threads."""
    with Sandbox() as box:
        p = subprocess.Popen(["python3", "-c", CALLERS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert p.stdout.readline() == "ready\n"
            with Untouched(p.pid):
                box.ctl("load", bpf("shared"))
                for prefix, size in (("10,0,0,0", 8), ("10,1,0,0", 16), ("10,2,0,0", 16), ("0,0,0,0", 0)):
                    box.ctl("map", "update", "routes", '{"prefixlen":%d,"data":[%s]}' % (size, prefix), "0")
                box.ctl("attach", "on_call", "libc:getppid", "-p", p.pid)
                p.stdin.write("go\n")
                p.stdin.flush()
                tids = [int(t) for t in p.stdout.readline().split()]

                def tasks():
                    return {e["key"]["tid"]: int(e["value"]) for e in box.ctl_json("map", "dump", "tasks")["elements"]}

                assert tasks() == {tid: (i + 1) * 100 for i, tid in enumerate(tids)}, (tids, tasks())
                doc = box.ctl_json("map", "dump", "tasks")
                assert {e["key"]["pid"] for e in doc["elements"]} == {p.pid}, doc
                assert box.ctl("map", "lookup", "tasks", str(tids[1])).stdout.endswith("value 200\n")
                g = box.ctl_json("map", "dump", "guarded")["elements"][0]["value"]
                missed = 600 - int(g["once"])
                assert int(g["twice"]) == 2 * int(g["once"]) and 0 <= missed < 600, g
                routes = {tuple(e["key"]["data"]) + (e["key"]["prefixlen"],): int(e["value"])
                          for e in box.ctl_json("map", "dump", "routes")["elements"]}
                assert sorted(v for v in routes.values()) == [0, 0, 0, 600], routes
                assert box.ctl("map", "lookup", "routes", '{"prefixlen":32,"data":[10,1,9,9]}').stdout.endswith("value 600\n")
                r = box.ctl("map", "update", "tasks", str(tids[0]), "1", check=False)
                assert r.returncode == 1 and "does not allow that" in r.stderr, r
                p.stdin.write("1\n")
                p.stdin.flush()
                assert p.stdout.readline() == "ended\n"
                wait_for(lambda: tids[1] not in tasks(), "storage of a thread that has ended")
                assert set(tasks()) == {tids[0], tids[2]}, tasks()
                box.ctl("map", "delete", "tasks", str(tids[0]))
                assert set(tasks()) == {tids[2]}, tasks()
                # one that ends just before it goes: no later look at its process finds it
                p.stdin.write("2\n")
                p.stdin.flush()
                assert p.stdout.readline() == "ended\n"
                box.ctl("detach", "--all")
                wait_for(lambda: not tasks(), "storage of a thread that has ended, of a process that was detached")
        finally:
            p.kill()
            p.wait()


def test_bloom_filter():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            attached(box, v, on_push="two_returns")
            v.ask("two_returns 20")
            assert int(results(box)["known"]) == 0, results(box)
            v.ask("two_returns 21")
            assert int(results(box)["known"]) == 20, results(box)
            assert box.ctl("map", "lookup", "seen", "7").stdout == "value 7\n"
            r = box.ctl("map", "lookup", "seen", "123456", check=False)
            assert r.returncode == 1 and "never been given 123456" in r.stderr, r
            box.ctl("map", "update", "seen", "123456")
            box.ctl("map", "lookup", "seen", "123456")
            r = box.ctl("map", "dump", "seen", check=False)
            assert r.returncode == 1 and "cannot be listed" in r.stderr, r
            box.ctl("detach", "--all")


def test_lru():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            attached(box, v, on_recent="two_returns")
            v.ask("two_returns 1000")
            assert int(results(box)["failed"]) == 0, results(box)
            seen = {int(e["key"]): int(e["value"]) for e in box.ctl_json("map", "dump", "recent")["elements"]}
            assert len(seen) == 8 and seen[0] == 1000 and seen[1000] == 1, seen
            seen = {int(e["key"]): sum(int(c["value"]) for c in e["values"])
                    for e in box.ctl_json("map", "dump", "recent_percpu")["elements"]}
            assert len(seen) == 8 and seen[0] == 1000 and seen[1000] == 1, seen
            box.ctl("map", "update", "recent", "5000", "7")
            assert len(box.ctl_json("map", "dump", "recent")["elements"]) == 8
            assert "5000" in box.ctl("map", "lookup", "recent", "5000").stdout
            assert [m["type"] for m in box.ctl_json("map", "list")["maps"] if m["name"] == "recent"] == ["lru_hash"]
            box.ctl("map", "delete", "recent", "5000")
            assert len(box.ctl_json("map", "dump", "recent")["elements"]) == 7
            box.ctl("detach", "--all")


def runs(box):
    return {int(e["key"]): sum(int(c["value"]) for c in e["values"]) for e in box.ctl_json("map", "dump", "runs")["elements"]}


def test_tail_calls():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            attached(box, v, on_dispatch="two_returns")
            entries = lambda: [(e["key"], e["value"]) for e in box.ctl_json("map", "dump", "next")["elements"]]
            assert entries() == [(2, "on_odd")], entries()
            assert v.ask("two_returns 10") == "10"
            assert int(results(box)["failed"]) == 10 and not any(runs(box).values()), results(box)
            box.ctl("map", "update", "next", "0", "on_odd")
            assert v.ask("two_returns 10") == "10"
            assert int(results(box)["failed"]) == 10 and int(results(box)["last"]) == 10, results(box)
            assert runs(box) == {0: 10, 1: 10, 2: 0, 3: 0}, runs(box)
            box.ctl("map", "update", "next", "1", "on_again")
            assert entries() == [(0, "on_odd"), (1, "on_again"), (2, "on_odd")], entries()
            assert v.ask("two_returns 10") == "10"
            # 5 odd ones, and 5 that end at the limit: one call to on_odd, 32 to on_again
            assert runs(box) == {0: 20, 1: 15, 2: 5 * 32, 3: 5}, runs(box)
            box.ctl("map", "delete", "next", "0")
            v.ask("two_returns 10")
            assert int(results(box)["failed"]) == 20, results(box)
            r = box.ctl("map", "lookup", "next", "0", check=False)
            assert r.returncode == 1 and "has no key 0" in r.stderr, r
            r = box.ctl("map", "update", "next", "3", "on_odd", check=False)
            assert r.returncode == 1, r
            r = box.ctl("map", "update", "next", "0", "no_such", check=False)
            assert r.returncode == 1 and "no_such" in r.stderr, r
            box.ctl("detach", "--all")


def test_ring_buffer():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_call", ":two_returns", "-p", v.pid)
            box.ctl("attach", "on_small", ":tail_target", "-p", v.pid)
            v.ask("two_returns 30")  # with 1 … 30
            r = box.ctl("map", "tail", "events", "event", "-d", "200ms", "--json")
            got = [json.loads(line) for line in r.stdout.splitlines()]
            assert [int(e["value"]["seq"]) for e in got] == [n for n in range(30) if n % 3 != 2], got
            assert [int(e["value"]["arg"]) for e in got] == [n + 1 for n in range(30) if n % 3 != 2], got
            assert all(e["size"] == 40 and int(e["value"]["pid"]) == v.pid and e["value"]["comm"] == "e2e_shapes"
                       for e in got), got[0]
            # the kernel's rule: all but the last bytes of a ring can be used, 16 for each of these
            v.ask("tail_caller 300")
            r = box.ctl("map", "tail", "small", "-d", "200ms")
            assert len(r.stdout.splitlines()) == 255 and "45 records found no room" in r.stderr, r
            lost = box.ctl_json("map", "dump", ".bss")["elements"][0]["value"]
            assert int(lost["lost"]) == 45 and int(lost["avail"]) == 255 * 16, lost
            box.ctl("detach", "--all")


def test_ring_buffer_by_dynptr():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_dynptr", ":two_returns", "-p", v.pid)
            v.ask("two_returns 4")  # with 1 … 4
            r = box.ctl("map", "tail", "events", "-d", "200ms", "--json")
            got = [json.loads(line) for line in r.stdout.splitlines()]
            assert [e["size"] for e in got] == [8, 16, 24, 32], got
            box.ctl("detach", "--all")


def test_perf_events():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        cpu = sorted(os.sched_getaffinity(0))[0]
        os.sched_setaffinity(v.pid, {cpu})
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_perf", ":two_returns", "-p", v.pid)
            assert [m["type"] for m in box.ctl_json("map", "list")["maps"] if m["name"] == "per_cpu_events"] == \
                ["perf_event_array"]
            v.ask("two_returns 30")
            r = box.ctl("map", "tail", "per_cpu_events", "event", "-d", "200ms", "--json")
            got = [json.loads(line) for line in r.stdout.splitlines()]
            assert [int(e["value"]["seq"]) for e in got] == list(range(30)), got
            assert all(e["size"] == 40 and e["cpu"] == cpu and int(e["value"]["pid"]) == v.pid for e in got), got[0]
            # 64 KiB a CPU, 48 bytes for each of these
            v.ask("two_returns 2000")
            r = box.ctl("map", "tail", "per_cpu_events", "event", "-d", "200ms", "--json")
            got = [json.loads(line) for line in r.stdout.splitlines()]
            n = len(got) - 1  # one less fits where a record would have to wrap
            assert n in (1364, 1365) and got[-1] == {"cpu": cpu, "lost": 2000 - n}, got[-1]
            assert [int(e["value"]["seq"]) for e in got[:-1]] == list(range(30, 30 + n)), got[-2]
            lost = box.ctl_json("map", "dump", ".bss")["elements"][0]["value"]
            assert int(lost["lost"]) == 2000 - n, lost
            v.ask("two_returns 1")
            r = box.ctl("map", "tail", "per_cpu_events", "event", "-d", "200ms")
            assert len(r.stdout.splitlines()) == 1 and "lost" not in r.stdout, r
            r = box.ctl("map", "dump", "per_cpu_events", check=False)
            assert r.returncode == 1 and "map tail per_cpu_events" in r.stderr, r
            box.ctl("detach", "--all")


def test_user_ring_buffer():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_commands", ":two_returns", "-p", v.pid)
            seen = lambda: {k: int(str(n), 0) for k, n in box.ctl_json("map", "dump", ".bss")["elements"][0]["value"].items()}
            assert [m["type"] for m in box.ctl_json("map", "list")["maps"] if m["name"] == "commands"] == ["user_ringbuf"]
            v.ask("two_returns 1")
            assert (seen()["drained"], seen()["sum"]) == (0, 0), seen()
            box.ctl("map", "update", "commands", "5")
            box.ctl("map", "update", "commands", "struct command", '{"op": 3, "arg": 100}')
            box.ctl("map", "update", "commands", "command", '{"op": 2, "arg": -1}')
            box.ctl("map", "update", "commands", "hex " + "01 " * 64)
            v.ask("two_returns 1")
            assert (seen()["drained"], seen()["longest"]) == (4, 1), seen()
            assert seen()["sum"] == (5 + 300 - 2 + 0x01010101 * 0x0101010101010101) % 2 ** 64, seen()
            v.ask("two_returns 1")
            assert seen()["drained"] == 0, seen()
            for n in range(255):  # 16 bytes each, and 8 before the end
                box.ctl("map", "update", "commands", str(n))
            for args, status, words in ((("update", "commands", "1"), 1, "is full: no program has read"),
                                        (("update", "commands", "nonsense", "1"), 2, "knows no type 'nonsense'"),
                                        (("update", "commands", "hex"), 2, "a record has 1 to"),
                                        (("update", "commands", "command", "{"), 2, ""),
                                        (("dump", "commands"), 1, "map update commands VALUE"),
                                        (("tail", "commands"), 2, "is no ring buffer or perf event array")):
                r = box.ctl("map", *args, check=False)
                assert r.returncode == status and words in r.stderr, (args, r)
            v.ask("two_returns 1")
            assert seen()["drained"] == 255, seen()
            box.ctl("detach", "--all")


def test_ring_buffer_live():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_call", ":two_returns", "-p", v.pid)
            tail = Tail(box, "events", "event")
            for n in range(0, 30, 3):
                v.ask("two_returns 3")
                for k in range(2):
                    assert int(tail.next()["seq"]) == n + k
            r = box.ctl("map", "tail", "events", check=False)
            assert r.returncode == 1 and "is being read by somebody else" in r.stderr, r
            box.ctl("unload", "rings")
            assert tail.p.wait(30) == 1 and "its object was unloaded" in tail.p.stderr.read()
            box.ctl("detach", "--all", check=False)


def test_ring_buffer_whose_writer_stands_still():
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 1)
        with Untouched(v.pid):
            box.ctl("load", bpf("rings"))
            box.ctl("attach", "on_slow", ":hammered", "-p", v.pid)
            for _ in range(20):  # until it is stopped in the middle of a record
                tail = box.start(BPFCTL, "--socket", box.socket, "map", "tail", "events", "-d", "3s",
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                assert tail.stdout.readline()
                os.kill(v.pid, signal.SIGSTOP)
                words = tail.communicate()[1]
                os.kill(v.pid, signal.SIGCONT)
                if "has not finished its record" in words:
                    break
            assert "of process %d has not finished its record" % v.pid in words, words
            box.ctl("detach", "--all")


def test_ring_buffer_refusals():
    with Sandbox() as box:
        box.ctl("load", bpf("rings"))
        for args, status, words in ((["tail", "events", "nonsense"], 2, "knows no type 'nonsense'"),
                                    (["tail", ".bss"], 2, "is no ring buffer or perf event array"),
                                    (["dump", "events"], 1, "map tail events"),
                                    (["lookup", "events", "1"], 1, "has no elements"),
                                    (["update", "events", "1", "1"], 1, "has no elements")):
            r = box.ctl("map", *args, check=False)
            assert r.returncode == status and words in r.stderr, (args, r)


if __name__ == "__main__":
    run()
