#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Returns that are taken over: everything that leaves a function in another way,
and everything that comes back late."""

import json
import os
import subprocess

from harness import Sandbox, Untouched, assert_text_identical, foreign_mappings, need, run, wait_for
from victims import Victim, bpf, counters, links

BOTH = ("e2e_unwind", "e2e_unwind_entry")
CASES = ("values", "tails", "deep", "longjmp", "throw", "nested", "backtrace", "coroutines", "migrate", "migrate_throw",
         "fork", "exit", "cancel", "signals", "dlsym", "late", "churn")
TIMES = {"churn": 2000}


class Attached:
    """Entries and returns of all p_* functions of a victim."""

    def __init__(self, box, v):
        self.box = box
        self.links = []
        for prog in ("on_entry", "on_exit"):
            self.links += links(box.ctl_json("attach", prog, ":p_*", "-p", v.pid))

    def detach(self):
        for link in self.links:
            self.box.ctl("detach", link)


def missed(box):
    ids = [int(link["id"]) for link in box.ctl_json("link", "list")["links"][:1]]
    return int(json.loads(box.ctl("call", "GetMissed", json.dumps({"links": ids})).stdout)["missed"])


def tactics(box, v):
    return {s["symbol"]: s["exit"] for s in box.ctl_json("symbols", ":p_*", "-p", v.pid)["symbols"]}


def all_cases(name):
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        for case in CASES:
            v = Victim(box, name)
            assert v.ask(case + " 1") == "ok", case
            before = counters(box)
            with Untouched(v.pid):
                at = Attached(box, v)
                assert v.ask("%s %d" % (case, TIMES.get(case, 50))) == "ok", case
                entries, exits = (b - a for a, b in zip(before, counters(box)))
                if case in ("values", "tails", "deep", "churn"):
                    assert entries == exits > 0, (case, entries, exits)
                if case == "backtrace":
                    # frames that were taken over at their entry are given back for it, and missed
                    lost = missed(box) if name == "e2e_unwind_entry" else 0
                    assert 0 < entries - exits <= lost + 8 if lost else entries == exits > 0, (entries, exits, lost)
                if case == "longjmp":
                    # 21 frames are lost each time; those of the last are found at the detach
                    assert exits == 50 * 8, (entries, exits)
                    assert entries - exits == 50 * 21, (entries, exits)
                    # where all returns are patched nobody notices
                    assert missed(box) >= 49 * 21 or name == "e2e_unwind", missed(box)
                if case == "late":
                    # what the exception goes over is lost, and nothing above it
                    assert entries == 50 * 111 and entries - exits == 50 * 4, (entries, exits)
                if case == "coroutines":
                    assert entries == 50 * 6 and exits >= 50 * 5, (entries, exits)
                at.detach()
                assert v.ask(case + " 10") == "ok", case
            assert v.alive()


def test_ends_of_all_kinds_by_jumps():
    all_cases("e2e_unwind")


def test_ends_of_all_kinds_by_entries():
    all_cases("e2e_unwind_entry")


def test_which_tactic():
    with Sandbox() as box:
        for name, tactic in zip(BOTH, ("tail", "takeover")):
            t = tactics(box, Victim(box, name))
            assert t["p_leaf"] == t["p_deep"] == tactic, t
            assert t["p_tail2"] == t["p_switch"] == "tail" and t["p_pair"] == "ret", t


def test_values_and_pairs():
    """Results are right and belong to their calls, through a chain of jumps too."""
    with Sandbox() as box:
        v = Victim(box, "e2e_unwind")
        with Untouched(v.pid):
            latency = box.ctl_start("latency", ":p_tail1", ":p_tail3", ":p_leaf", "-p", v.pid, "--json")
            latency.wait_attached()
            assert v.ask("tails 1000") == "ok"
            doc = json.loads(latency.interrupt())
        got = {l["symbol"]: l["histogram"]["count"] for l in doc["latencies"]}
        assert got == {"p_tail1": 1000, "p_tail3": 1000, "p_leaf": 1000}, got
        assert doc["missed"] == 0


def text_is_identical(pid):
    try:
        assert_text_identical(pid)
    except AssertionError:
        return False
    return True


def held(name, leave):
    """Threads and a child stand in frames that are taken over while LEAVE happens."""
    with Sandbox() as box:
        v = Victim(box, name)
        box.ctl("load", bpf("calls"))
        with Untouched(v.pid):
            at = Attached(box, v)
            assert v.ask("hold 8") == "ok"
            wait_for(lambda: counters(box)[0] >= 2 + 8 * 6 + 8, "all stand inside")
            leave(box, v, at)
            assert v.ask("let_go 1") == "ok"
            # Words that look like ways back are overwritten sooner or later.
            wait_for(lambda: v.ask("fork 1") == v.ask("deep 1") == "ok" and not foreign_mappings(v.pid), "all is gone")
        assert v.alive()


def test_detached_while_inside():
    for name in BOTH:
        held(name, lambda box, v, at: at.detach())


def test_daemon_killed_while_inside():
    def leave(box, v, at):
        box.daemon.kill()
        box.daemon.wait()
        os.unlink(box.socket)
        box.start_daemon()
        # What looks like a way back may keep code mapped until they have left.
        wait_for(lambda: text_is_identical(v.pid), "the next daemon has undone it")

    for name in BOTH:
        held(name, leave)


def test_came_back_before_the_detach():
    for name in BOTH:
        def leave(box, v, at):
            assert v.ask("let_go 1") == "ok"
            at.detach()
            assert v.ask("hold 1") == "ok"

        held(name, leave)


def test_attached_and_detached_under_load():
    for name in BOTH:
        with Sandbox() as box:
            v = Victim(box, name)
            box.ctl("load", bpf("calls"))
            with Untouched(v.pid):
                assert v.ask("hammer 8") == "ok"
                for _ in range(4):
                    at = Attached(box, v)
                    before = counters(box)[1]
                    wait_for(lambda: counters(box)[1] > before + 1000, "returns are seen")
                    at.detach()
                assert v.ask("rest 1") == "ok"
            assert v.alive()


def refusals(box, pid, spec):
    doc = box.ctl_json("symbols", spec, "-p", pid)
    return [s["exit_reason"] for s in doc["symbols"] if s["exit"] in ("tail", "takeover")]


def test_refused_where_stacks_are_walked():
    node = need("node")
    with Sandbox() as box:
        p = box.start(node, "-e", "console.log('ready'); setInterval(() => {}, 1000)", stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        why = refusals(box, p.pid, "libc:mem*")
        assert why and all("walks its stacks by itself" in r for r in why), why


def test_refused_in_static_programs():
    gcc = need("gcc")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../victims/e2e_shapes.c")
    with Sandbox() as box:
        subprocess.run([gcc, "-O2", "-static", "-w", "-D_GNU_SOURCE", "-o", box.dir + "/static", source], check=True)
        p = box.start(box.dir + "/static", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        why = refusals(box, p.pid, ":tail_caller")
        assert why and all("a static program's unwinder is not known" in r for r in why), why


if __name__ == "__main__":
    run()
