#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Breakpoints where no jump fits: a program with every habit that it can have with
its signals, and with SIGTRAP of its own, does not notice."""

import json
import os
import random
import shutil
import signal
import subprocess

from harness import (VICTIMS, Asked, Sandbox, Skip, Untouched, assert_text_identical, foreign_mappings, maps, run, total,
                     wait_for)
from everything import Postgres
from interpreter import Script
from redis import Redis
from soak import Killer, attach
from victims import Victim, bpf, counters, failed, links

KILLS = int(os.environ.get("UPROBED_KILLS", "25"))

SPECS = (":t_add", ":t_nothing", ":t_loop")
CASES = ("plain", "handler", "masked_handler", "old_handler", "alternate_stack", "blocked", "errors", "threads", "fork",
         "fork_change", "spawn", "vfork", "own", "as_it_is", "restarts", "step", "longjmp", "contexts", "ends")
FEW = {"step": 1, "spawn": 0}  # calls of the functions


class Attached:
    """Entries and returns of all that needs breakpoints."""

    def __init__(self, box, v, specs=SPECS):
        self.box = box
        self.links = []
        for prog in ("on_entry", "on_exit"):
            self.links += links(box.ctl_json("attach", prog, *specs, "-p", v.pid, "--trap"))

    def detach(self):
        for link in self.links:
            self.box.ctl("detach", link)


def trap_of(pid):
    """What the kernel says of the process: (ignored, caught)."""
    with open("/proc/%d/status" % pid) as f:
        words = dict(line.split(":", 1) for line in f)
    return tuple(int(words[w], 16) >> (signal.SIGTRAP - 1) & 1 for w in ("SigIgn", "SigCgt"))


def private_code(pid):
    """Executable memory that is no file's: the area of breakpoints is."""
    return [m for m in maps(pid) if "x" in m[1] and len(m) < 6]


def test_only_when_asked():
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        rows = {s["symbol"]: s for s in box.ctl_json("symbols", ":t_*", "-p", v.pid)["symbols"]}
        for name in ("t_add", "t_nothing"):
            assert rows[name]["entry"] == rows[name]["exit"] == "-", rows[name]
            assert rows[name]["entry_reason"].endswith("; --trap would put a breakpoint there"), rows[name]
            code, err = failed(box.ctl("count", ":" + name, "-p", v.pid, check=False))
            assert code == 8 and "--trap would put a breakpoint there" in err, err
        assert rows["t_loop"]["exit_reason"].endswith("; --trap would put a breakpoint there"), rows
        with_trap = {s["symbol"]: s for s in box.ctl_json("symbols", ":t_*", "-p", v.pid, "--trap")["symbols"]}
        for name in ("t_add", "t_nothing"):
            assert with_trap[name]["entry"] == with_trap[name]["exit"] == "trap", with_trap[name]
            assert with_trap[name]["displaced"] == 1, with_trap[name]
        assert with_trap["t_loop"]["exit"] == "trap", with_trap
        # what a jump fits into gets one
        assert box.ctl_json("symbols", ":main", "-p", v.pid, "--trap")["symbols"][0]["entry"] == "jump"
        assert not private_code(v.pid) and trap_of(v.pid) == (0, 0)


def test_every_case():
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        for case in CASES:
            assert v.ask(case + " 2") == "ok", case
        with Untouched(v.pid):
            for case in CASES:
                before = counters(box)
                at = Attached(box, v)
                assert trap_of(v.pid) == (0, 1)
                answer = v.ask(case + " 20")
                assert answer == "ok", (case, answer)
                entries, exits = (b - a for a, b in zip(before, counters(box)))
                assert entries == exits >= FEW.get(case, 3) * 20, (case, entries, exits)
                at.detach()
                wait_for(lambda: not private_code(v.pid), "the area is gone")
                assert trap_of(v.pid) == (0, 0), case
                assert v.ask(case) == "ok", case
                assert v.ask("old_handler") == v.ask("is_default") == "ok", case


def test_other_libcs():
    """Static programs, and musl's way of dealing with signals."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../victims/e2e_traps.c")
    tried = 0
    for compiler, *options in (["gcc", "-static"], ["musl-gcc"], ["musl-gcc", "-static"]):
        if not shutil.which(compiler):
            continue
        tried += 1
        with Sandbox() as box:
            victim = os.path.join(box.dir, "victim")
            subprocess.run([compiler, *options, "-D_GNU_SOURCE", "-O2", "-fcf-protection=none", "-o", victim, source,
                            "-pthread"], check=True)
            box.ctl("load", bpf("calls"))
            v = Asked(box, victim)
            for case in CASES:
                before = counters(box)
                at = Attached(box, v)
                answer = v.ask(case + " 3")
                assert answer == "ok", (compiler, options, case, answer)
                assert counters(box)[0] - before[0] >= FEW.get(case, 3) * 3, (compiler, options, case)
                at.detach()
            wait_for(lambda: not private_code(v.pid), "the area is gone")
            assert trap_of(v.pid) == (0, 0)
            assert_text_identical(v.pid)
    if not tried:
        raise Skip("no compiler is installed")


def test_what_was_there_before():
    """A handler, or SIG_IGN, from before the attach is in force while the probes are in, and after."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        for case, after in (("ignore", (1, 0)), ("install", (0, 1)), ("uninstall", (0, 0))):
            assert v.ask(case) == "ok"
            assert trap_of(v.pid) == after
            at = Attached(box, v)
            assert trap_of(v.pid) == (0, 1)
            assert v.ask("as_it_is 20") == "ok", case
            at.detach()
            assert trap_of(v.pid) == after, (case, trap_of(v.pid))
            assert v.ask("as_it_is 20") == "ok", case
        # one that is installed meanwhile stays
        at = Attached(box, v)
        assert v.ask("install") == "ok"
        at.detach()
        assert trap_of(v.pid) == (0, 1) and v.ask("as_it_is") == "ok"
        assert v.ask("uninstall") == v.ask("is_default") == "ok"


def test_sixteen_threads():
    """Attaches and detaches while all of them run over the breakpoints all the time."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        with Untouched(v.pid):
            assert v.ask("hammer") == "ok"
            for _ in range(30):
                at = Attached(box, v)
                a = counters(box)
                wait_for(lambda: counters(box)[0] > a[0] + 1000, "they are hit")
                at.detach()
            assert v.ask("still") == "ok"
            wait_for(lambda: not private_code(v.pid), "the area is gone")
            assert trap_of(v.pid) == (0, 0)
            assert v.ask("plain 100") == "ok"


def test_counts_are_exact():
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        c = box.ctl_start("count", *SPECS, "-p", v.pid, "--trap", "--json")
        c.wait_attached()
        assert v.ask("plain 5000") == "ok"
        doc = json.loads(c.interrupt())
        assert {x["symbol"]: x["count"] for x in doc["counts"]} == dict.fromkeys(("t_add", "t_nothing", "t_loop"), 5000)
        assert doc["missed"] == 0


def test_offsets():
    """An instruction directly before something that is jumped to, where no short jump leads anywhere;
    with entries that have jumps, and one that has a breakpoint."""
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        code, err = failed(box.ctl("count", ":t_middle+0x2", "-p", v.pid, check=False))
        assert code == 8 and "--trap would put a breakpoint there" in err, err
        c = box.ctl_start("count", ":t_middle+0x2", ":t_middle+0xa", ":t_add", "-p", v.pid, "--trap", "--json")
        c.wait_attached()
        assert v.ask("plain 1000") == "ok"
        doc = json.loads(c.interrupt())
        assert {x["probe"]: x["count"] for x in doc["counts"]} == {
            ":t_middle+0x2": 1000, ":t_middle+0xa": 4000, ":t_add": 1000}, doc


def test_returns_where_stacks_are_walked():
    """Where no return may be taken over, breakpoints at the rets."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        shutil.copy(os.path.join(VICTIMS, "e2e_traps"), os.path.join(box.dir, "node"))
        for path, without in ((os.path.join(VICTIMS, "e2e_traps"), "takeover"), (os.path.join(box.dir, "node"), "refused")):
            v = Asked(box, path)
            row, = box.ctl_json("symbols", ":t_near", "-p", v.pid)["symbols"]
            assert row["exit"] == "takeover" and bool(row["exit_reason"]) == (without == "refused"), row
            row, = box.ctl_json("symbols", ":t_near", "-p", v.pid, "--trap")["symbols"]
            assert row["exit"] == ("takeover" if without == "takeover" else "trap") and not row["exit_reason"], row
            before = counters(box)[1]
            at = Attached(box, v, (":t_near",))
            assert v.ask("plain 100") == "ok"
            at.detach()
            assert counters(box)[1] == before + 100


def test_refused():
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        with Untouched(v.pid):
            assert v.ask("block") == "ok"
            code, err = failed(box.ctl("count", ":t_add", "-p", v.pid, "--trap", check=False))
            assert code == 8 and "all of its threads block SIGTRAP" in err, err
            assert not private_code(v.pid) and trap_of(v.pid) == (0, 0)
            assert v.ask("unblock") == "ok"


def blocking(pid):
    """Threads that block SIGTRAP."""
    found = []
    for tid in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, tid)) as f:
            blk = next(int(line.split()[1], 16) for line in f if line.startswith("SigBlk:"))
        if blk >> (signal.SIGTRAP - 1) & 1:
            found.append(tid)
    return found


def test_thread_that_blocks_everything():
    """It does not while breakpoints are in, believes that it does, and does again afterwards, whoever detaches."""
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        assert v.ask("blocker") == v.ask("goes_on") == "ok"
        was = blocking(v.pid)
        assert len(was) == 1, was
        for i in range(6):
            box.ctl("load", bpf("calls"))
            at = Attached(box, v)
            assert not blocking(v.pid)
            assert v.ask("goes_on") == v.ask("blocked 3") == "ok"
            assert v.ask("many_end") == v.ask("blocked 1") == "ok"
            if i % 2:
                at.detach()
                box.ctl("unload", "calls")
            else:
                box.daemon.kill()
                box.daemon.wait()
                assert v.ask("goes_on") == "ok"
                box.start_daemon()
            wait_for(lambda: not private_code(v.pid), "the area is gone")
            assert blocking(v.pid) == was
            assert v.ask("goes_on") == "ok"


def test_handler_replaced_behind_our_back():
    """What no hook sees is seen at the next stop, or soon after where nobody handles it: the breakpoints go."""
    for how, caught in (("raw", False), ("raw_default", False)):
        with Sandbox() as box:
            box.ctl("load", bpf("calls"))
            v = Victim(box, "e2e_traps")
            with Untouched(v.pid):
                Attached(box, v, (":t_nothing",))
                jumps = links(box.ctl_json("attach", "on_entry", ":main", "-p", v.pid))
                assert v.ask(how) == "ok"
                wait_for(lambda: not private_code(v.pid), "the breakpoints are gone")
                wait_for(lambda: "handler of SIGTRAP that is not ours" in " ".join(box.ctl_json("status")["warnings"]),
                         "the daemon says so")
                assert trap_of(v.pid) == (how == "raw", 0)
                # and the others stay
                assert box.ctl_json("link", "show", jumps[0])["sites"], "the jump has gone, too"
                assert v.ask("plain 10") == "ok"
                box.ctl("detach", "--all")


def test_replaced_and_attached_at_once():
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        with Untouched(v.pid):
            Attached(box, v, (":t_nothing",))
            assert v.ask("raw") == "ok"
            box.ctl("attach", "on_entry", ":t_add", "-p", v.pid, "--trap")
            before = counters(box)[0]
            assert v.ask("plain 10") == "ok"
            assert counters(box)[0] == before + 10, "of the first, only the new one is left"
            box.ctl("detach", "--all")
            assert trap_of(v.pid) == (1, 0)


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def test_children():
    """A fork child has the breakpoints, a table and a handler of its own; it is cleaned with its parent."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        with Untouched(v.pid):
            at = Attached(box, v)
            assert v.ask("child") == "ok"
            child, = children(v.pid)
            assert private_code(child) and trap_of(child) == (0, 1)
            before = counters(box)[0]
            wait_for(lambda: counters(box)[0] > before + 10, "the child is counted")
            at.detach()
            wait_for(lambda: not private_code(child), "the child is clean")
            assert_text_identical(child)
            assert trap_of(v.pid) == trap_of(child) == (0, 0)
            assert v.ask("plain 10") == v.ask("end_child") == "ok"


def test_orphan():
    """A child whose parent, and the daemon with it, have gone."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        Attached(box, v)
        assert v.ask("child") == "ok"
        child, = children(v.pid)
        box.daemon.kill()
        box.daemon.wait()
        box.start_daemon()
        wait_for(lambda: not private_code(child) and not private_code(v.pid), "both are clean")
        assert_text_identical(child)
        assert trap_of(v.pid) == trap_of(child) == (0, 0)
        assert v.ask("plain 10") == v.ask("end_child") == "ok"


class TrapKiller(Killer):
    def attach(self):
        specs = random.choice([SPECS, (":t_nothing",), (":t_add", ":t_middle+0x2"), (":t_loop", ":calls")])
        return dict(attach(list(specs), self.victim.pid) if "+" not in specs[-1] else
                    {"programs": [{"program": "on_entry", "probe": "uprobe"}], "specs": list(specs),
                     "target": {"pids": [self.victim.pid]}}, trap=True)

    def clean(self):
        """While the main thread works: where it waits for a line, an old signal frame of a breakpoint may lie in the
        middle of its stack, and keep the code."""
        for link in self.box_links():
            self.con.call("Detach", link=link)
        wait_for(lambda: self.victim.ask("plain") == "ok" and not foreign_mappings(self.victim.pid), "our mappings go", 60)
        assert_text_identical(self.victim.pid)


def test_killed_at_any_moment():
    """SIGKILL to the daemon or its worker, anywhere in an attach or a detach, while sixteen threads meet breakpoints."""
    with Sandbox() as box:
        box.ctl("load", bpf("calls"))
        v = Victim(box, "e2e_traps")
        killer = TrapKiller(box, v)
        with Untouched(v.pid):
            assert v.ask("hammer") == "ok"
            for i in range(KILLS):
                killer.strike(i)
                wait_for(lambda: not private_code(v.pid), "the area is gone", 60)
                assert trap_of(v.pid) == (0, 0)
                assert v.ask("plain") == v.ask("old_handler") == "ok"
            assert v.ask("still") == "ok"
        print("# " + killer.said(), flush=True)
        assert killer.killed_a_worker(), killer.hit


def test_daemon_killed():
    """The next one undoes it: text, handler, masks."""
    with Sandbox() as box:
        v = Victim(box, "e2e_traps")
        for i in range(5):
            box.ctl("load", bpf("calls"))
            Attached(box, v)
            assert v.ask("install" if i % 2 else "uninstall") == "ok"
            box.daemon.kill()
            box.daemon.wait()
            assert v.ask("plain 100") == "ok", "it goes on without a daemon"
            box.start_daemon()
            wait_for(lambda: not private_code(v.pid) and not foreign_mappings(v.pid), "the next daemon undoes it")
            assert_text_identical(v.pid)
            assert trap_of(v.pid) == (0, i % 2)
            assert v.ask("plain 10") == v.ask("old_handler") == "ok"
            if i % 2:
                assert v.ask("as_it_is") == "ok"


#
# Real programs.
#

def only_by_trap(box, pid, functions):
    """Instructions of these functions that nothing else can be done for."""
    found = []
    for f in functions:
        size = box.ctl_json("symbols", f, "-p", pid, "--no-follow")["symbols"][0]["bytes"]
        for first in range(1, min(size, 4000), 500):
            specs = ["%s+%#x" % (f, o) for o in range(first, min(size, first + 500))]
            found += [s["probe"] for s in box.ctl_json("symbols", *specs, "-p", pid, "--no-follow")["symbols"]
                      if s["entry_reason"].endswith("; --trap would put a breakpoint there")]
    return found


def traps_in(box, pid, *specs):
    doc = box.ctl_json("symbols", *specs, "-p", pid, "--trap", timeout=300)
    return {s["probe"] for s in doc["symbols"] if s["entry"] == "trap"}


def test_redis():
    """Instructions in its busiest functions, and every function of it and of libc, under load."""
    with Sandbox() as box:
        r = Redis(box)
        with Untouched(r.pid):
            places = only_by_trap(box, r.pid, [":dictFind", ":siphash", ":dictAddRaw", ":processMultibulkBuffer",
                                               ":ll2string", ":string2ll", ":call", ":processCommand"])
            assert len(places) >= 4, places
            count = box.ctl_start("count", *places, "-p", r.pid, "--trap", "--json")
            count.wait_attached()
            before = r.calls("incr")
            r.benchmark("set,get,incr,lpush", 5000)
            doc = json.loads(count.interrupt())
            assert r.calls("incr") == before + 5000
            assert total(doc) > 5000 and doc["missed"] == 0, (total(doc), doc["missed"])
            count = box.ctl_start("count", ":*", "libc:*", *places[:4], "-p", r.pid, "--trap", "--json")
            count.wait_attached()
            r.benchmark("set,get", 5000)
            doc = json.loads(count.interrupt())
            assert total(doc, "setCommand") == total(doc, "getCommand") == 5000
        assert r.cli("ping") == "PONG"
        assert trap_of(r.pid) == (0, 0)


def test_python():
    """Every function of the interpreter and of libc, threads that come and go, and handlers that it installs."""
    with Sandbox() as box:
        s = Script(box)
        plain = s.round(300, 3)
        with Untouched(s.pid):
            places = only_by_trap(box, s.pid, [":PyObject_RichCompare", ":PyUnicode_New", ":PyObject_GetAttr", ":PyTuple_New",
                                               ":PyObject_Malloc", ":PyObject_Free", ":_Py_HashBytes"])
            traps = traps_in(box, s.pid, ":*", "libc:*") | set(places)
            count = box.ctl_start("count", ":*", "libc:*", *places, "-p", s.pid, "--trap", "--json")
            count.wait_attached()
            assert s.round(300, 3) == plain
            doc = json.loads(count.interrupt())
            assert total(doc, "PyMapping_Items") == 900
            hit = sum(c["count"] for c in doc["counts"] if c["probe"] in traps)
            print("# %d breakpoints, met %d times" % (len(traps), hit), flush=True)
            assert hit > 1000
        assert s.round(300, 3) == plain


def test_postgres():
    """Its servers are forked with breakpoints in them, and block signals all the time; the balances add up."""
    with Sandbox() as box:
        pg = Postgres(box)
        with Untouched(pg.p.pid):
            places = only_by_trap(box, pg.p.pid, [":MemoryContextAlloc", ":hash_search_with_hash_value", ":hash_bytes",
                                                  ":LWLockAcquire", ":LWLockRelease"])
            assert places
            count = box.ctl_start("count", *places, ":PostgresMain", "-p", pg.p.pid, "--no-follow", "--trap",
                                  "--json")
            count.wait_attached()
            pg.tool("pgbench", "-h", pg.dir, "-c", "4", "-j", "2", "-t", "200", "-n", "postgres")
            doc = json.loads(count.interrupt())
            sums = pg.sql("select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches)"
                          " and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)")
            assert sums == "t", sums
            hit = sum(c["count"] for c in doc["counts"] if c["probe"] in places)
            print("# %d breakpoints, met %d times; %d servers" % (len(places), hit, total(doc, "PostgresMain")), flush=True)
            assert hit > 1000 and total(doc, "PostgresMain") >= 4
        assert trap_of(pg.p.pid) == (0, 0)


if __name__ == "__main__":
    run()
