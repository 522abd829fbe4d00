#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Our own small programs, each with one way of making a probe go wrong."""

import ctypes
import json
import os
import re
import struct
import subprocess

from harness import (VICTIMS, Asked, Sandbox, Skip, Untouched, foreign_mappings, maps, need, run, total,
                     wait_for)


class Victim(Asked):
    def __init__(self, box, name, *args, **kw):
        super().__init__(box, os.path.join(VICTIMS, name), *args, **kw)


def failed(r):
    assert r.returncode != 0, r.stdout
    return r.returncode, r.stderr


def bpf(name):
    return os.path.join(VICTIMS, name + ".bpf.o")


def counters(box):
    """calls.bpf.c: (entries, exits)."""
    doc = box.ctl_json("map", "dump", "calls.counts")
    per = {int(e["key"]): sum(int(v["value"]) for v in e["values"]) for e in doc["elements"]}
    return per[0], per[1]


def links(doc):
    return [str(l["id"]) for l in doc["links"]]


def test_hammered_by_threads():
    """Eight threads on the site: nothing lost between attach's reply and detach."""
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 8)
        with Untouched(v.pid):
            v.ask("pause")
            count = box.ctl_start("count", ":hammered", "-p", v.pid, "--json")
            count.wait_attached()
            before = int(v.ask("count"))
            v.ask("go")
            wait_for(lambda: int(v.ask("count")) > before + 3000000, "a few million calls")
            v.ask("pause")
            after = int(v.ask("count"))
            doc = json.loads(count.interrupt())
            assert total(doc) == after - before, (total(doc), after - before)
            assert doc["missed"] == 0
            v.ask("go")


def test_attached_and_detached_again_and_again():
    """A thousand attaches while threads hammer the site: the victim checks
    every result itself and dies of a wrong one."""
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 16, 10000)
        box.ctl("load", bpf("calls"))
        script = os.path.join(os.path.dirname(__file__), "again.py")
        with Untouched(v.pid):
            r = subprocess.run(["/usr/bin/python3", script, box.socket, str(v.pid), "hammered", "1000"],
                               capture_output=True, text=True, timeout=800)
            assert r.returncode == 0, r.stdout + r.stderr + box.daemon_log()
            assert v.alive()
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a, "it goes on")


# Where the instructions of "sensitive" begin (tests/victims/e2e_shapes.c).
SENSITIVE_ONCE = [2, 7, 16, 100]
SENSITIVE_LOOP = [21, 27, 32, 36, 39, 40, 43, 45, 46, 50, 54, 59, 62, 63, 68, 71, 76, 77, 82, 91, 94, 98]


def sensitive_expected(calls):
    rounds = sum(1 + i % 8 for i in range(1, calls + 1))
    return {**{o: calls for o in SENSITIVE_ONCE}, **{o: rounds for o in SENSITIVE_LOOP}}


def by_offset(doc):
    return {int(c["probe"].rsplit("+", 1)[1], 16): c["count"] for c in doc["counts"]}


def count_offsets(box, v, offsets, calls=1000):
    count = box.ctl_start("count", *[":sensitive+%#x" % o for o in offsets], "-p", v.pid, "--json")
    count.wait_attached()
    assert v.ask("sensitive %d" % calls) == str(calls), "the victim itself saw a difference"
    doc = json.loads(count.interrupt())
    assert doc["missed"] == 0
    expected = sensitive_expected(calls)
    got = by_offset(doc)
    assert got == {o: expected[o] for o in offsets}, (got, expected)


def test_every_instruction_of_a_function():
    """Flags, red zone, direction flag and a stack aligned in no way, across
    every instruction: one probe at a time, then many at once."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            done = 0
            for o in SENSITIVE_ONCE + SENSITIVE_LOOP:
                sym = box.ctl_json("symbols", ":sensitive+%#x" % o, "-p", v.pid)["symbols"][0]
                assert sym["entry"] in ("jump", "punned") or "jump" in sym["entry_reason"], sym
                if sym["entry"] == "-":
                    code, err = failed(box.ctl("count", ":sensitive+%#x" % o, "-p", v.pid, check=False))
                    assert code == 8 and sym["entry_reason"] in err, (code, err)
                    continue
                count_offsets(box, v, [o])
                done += 1
            assert done >= 22, done
            count_offsets(box, v, [2, 21, 27, 32, 36, 39, 40, 43, 45, 46, 50, 82])


def test_offsets_that_are_refused():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            for spec, status, words in [
                    (":sensitive+3", 8, "no instruction begins at +0x3: the nearest instructions begin at +0x2 and +0x7"),
                    (":sensitive+102", 8, "lies in the padding between instructions"),
                    (":sensitive+5000", 2, "lies behind it"),
                    ("uretprobe::sensitive+2", 2, "takes no offset")]:
                code, err = failed(box.ctl("count", spec, "-p", v.pid, check=False))
                assert code == status and words in err, (spec, code, err)


def test_an_offset_beside_its_function():
    """Programs on one window, added and taken away while it is hot."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            first = box.ctl_start("count", ":sensitive", "-p", v.pid, "--json")
            first.wait_attached()
            count_offsets(box, v, [2, 100])
            second = box.ctl_start("count", ":sensitive+2", "-p", v.pid, "--json")
            second.wait_attached()
            assert v.ask("sensitive 10") == "10"
            assert json.loads(first.interrupt())["counts"][0]["count"] == 1010
            assert v.ask("sensitive 10") == "10"
            assert json.loads(second.interrupt())["counts"][0]["count"] == 20


def test_programs_come_and_go_on_a_hot_site():
    """Sixteen threads in a place with two programs, a third comes and goes: they run in the order
    of their attaches, and the two miss no call."""
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 16, 10000)
        box.ctl("load", bpf("order"))

        def records():
            return [e["value"] for e in box.ctl_json("map", "dump", "threads")["elements"]]

        def runs():
            return [sum(int(r["runs"][i]) for r in records()) for i in range(3)]
        with Untouched(v.pid):
            v.ask("pause")
            stay = [links(box.ctl_json("attach", p, ":hammered", "-p", v.pid))[0] for p in ("first", "second")]
            before = int(v.ask("count"))
            v.ask("go")
            for _ in range(15):
                third = links(box.ctl_json("attach", "third", ":hammered", "-p", v.pid))
                a = runs()[2]
                wait_for(lambda: runs()[2] > a + 50000, "the third runs, too")
                box.ctl("detach", *third)
            v.ask("pause")
            after = int(v.ask("count"))
            box.ctl("detach", stay[0])
            box.ctl("detach", stay[1])
            v.ask("go")
        assert runs()[:2] == [after - before] * 2, (runs(), after - before)
        assert sum(int(r["wrong"]) for r in records()) == 0, records()
        assert v.alive()


def text_at(v, symbol, n):
    """Address and bytes of a function of the victim's, in its memory."""
    out = subprocess.run(["nm", "/proc/%d/exe" % v.pid], capture_output=True, text=True).stdout
    link = next(int(line.split()[0], 16) for line in out.splitlines() if line.split()[-1] == symbol)
    at = link + next(int(m[0].split("-")[0], 16) for m in maps(v.pid))
    with open("/proc/%d/mem" % v.pid, "rb", 0) as mem:
        mem.seek(at)
        return at, link, mem.read(n)


def refused_with_a_trap(box, v):
    for command in (["count", ":two_returns"], ["latency", ":two_returns"]):
        code, err = failed(box.ctl(*command, "-p", v.pid, check=False))
        assert code == 8 and "a breakpoint or a kernel uprobe stands there" in err, (code, err)
    (sym,) = box.ctl_json("symbols", ":two_returns", "-p", v.pid)["symbols"]
    assert sym["entry"] == "-" and "a breakpoint, a kernel uprobe" in sym["entry_reason"], sym
    at, _, now = text_at(v, "two_returns", 5)
    assert now[0] == 0xcc and not foreign_mappings(v.pid), now
    # its neighbours can be probed all the same
    count = box.ctl_start("count", ":tail_target", "-p", v.pid, "--json")
    count.wait_attached()
    assert v.ask("tail_caller 5") == "5"
    assert total(json.loads(count.interrupt())) == 5


def test_a_debuggers_breakpoint():
    """One that gdb leaves behind when it is killed: what it stands on is not ours."""
    gdb = need("gdb")
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        p = box.start(gdb, "-q", "-nx", "-p", str(v.pid), "-ex", "set breakpoint always-inserted on",
                      "-ex", "break *%#x" % text_at(v, "two_returns", 1)[0], "-ex", "continue", stdin=subprocess.PIPE)
        wait_for(lambda: text_at(v, "two_returns", 1)[2] == b"\xcc", "gdb puts its breakpoint there", 60)
        code, err = failed(box.ctl("count", ":two_returns", "-p", v.pid, check=False))
        assert code != 0 and "gdb" in err, (code, err)  # it traces the process
        p.kill()
        p.wait()
        refused_with_a_trap(box, v)


def perf_uprobe(pid, path, offset):
    """A kernel uprobe as perf makes one; a descriptor."""
    try:
        with open("/sys/bus/event_source/devices/uprobe/type") as f:
            kind = int(f.read())
    except OSError:
        raise Skip("the kernel has no uprobes")
    name = ctypes.create_string_buffer(path.encode())
    attr = struct.pack("<IIQQQQQIIQQ", kind, 128, 0, 0, 0, 0, 0, 0, 0, ctypes.addressof(name), offset).ljust(128, b"\0")
    fd = ctypes.CDLL(None, use_errno=True).syscall(298, attr, pid, -1, -1, 0)
    if fd < 0:
        raise Skip("perf_event_open: %s" % os.strerror(ctypes.get_errno()))
    return fd


def test_a_kernel_uprobe():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        _, link, _ = text_at(v, "two_returns", 1)
        fd = perf_uprobe(v.pid, os.path.join(VICTIMS, "e2e_shapes"), link)  # its text lies at its file offset
        try:
            if text_at(v, "two_returns", 1)[2] != b"\xcc":
                raise Skip("the kernel's uprobe is no breakpoint here")
            refused_with_a_trap(box, v)
            assert v.ask("two_returns 7") == "7"  # the kernel's goes on working
        finally:
            os.close(fd)
        wait_for(lambda: text_at(v, "two_returns", 1)[2] != b"\xcc", "the uprobe is gone")
        count = box.ctl_start("count", ":two_returns", "-p", v.pid, "--json")
        count.wait_attached()
        assert v.ask("two_returns 7") == "7"
        assert total(json.loads(count.interrupt())) == 7


def test_parked_in_the_patched_bytes():
    with Sandbox() as box:
        v = Victim(box, "e2e_parked", 8)
        moved = 0
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            for _ in range(30):
                doc = box.ctl_json("attach", "on_entry", ":parked", "-p", v.pid)
                moved += sum(s["moved"] for s in doc["stops"])
                a = int(v.ask("count"))
                wait_for(lambda: int(v.ask("count")) > a + 1000, "threads go on through the trampoline")
                for link in links(doc):
                    box.ctl("detach", link)
        assert moved > 0, "no thread was ever found inside the window"


def sigtop(mode):
    with Sandbox() as box:
        v = Victim(box, "e2e_sigtop", mode)
        box.ctl("load", bpf("slow"))
        with Untouched(v.pid):
            doc = box.ctl_json("attach", "slow", ":probed", "-p", v.pid)
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a + 3, "the program runs")
            v.ask("signal")  # on top of the program, which runs nearly all the time
            for link in links(doc):
                box.ctl("detach", link)
            assert foreign_mappings(v.pid), "code was unmapped under a handler that will return into it"
            assert v.ask("leave") == "left"
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a + 3, "it goes on")
        assert v.alive()


def test_signal_handler_on_top_of_a_program():
    sigtop("same")


def test_signal_handler_on_its_own_stack():
    sigtop("altstack")


def test_shapes():
    """Entry and exit of awkward functions: results right, counts exact."""
    shapes = ["two_returns", "loop_to_start", "in_two_registers", "floating", "eight", "variadic"]
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            latency = box.ctl_start("latency", *[":" + s for s in shapes], "-p", v.pid, "--json")
            latency.wait_attached()
            for s in shapes:
                assert v.ask("%s 777" % s) == "777", s
            doc = json.loads(latency.interrupt())
        got = {l["symbol"]: l["histogram"]["count"] for l in doc["latencies"]}
        for s in shapes:
            assert got.get(s) == 777, (s, got)


def test_entry_counts_of_a_loop_to_the_start():
    """A jump to the first instruction is a jump to the probed instruction: it
    is counted, as the kernel's uprobes count it."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            count = box.ctl_start("count", ":loop_to_start", "-p", v.pid, "--json")
            count.wait_attached()
            assert v.ask("loop_to_start 100") == "100"
            doc = json.loads(count.interrupt())
        assert total(doc) == 100 * 101 // 2, doc["counts"]


def test_recursion():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            a = box.ctl_json("attach", "on_entry", ":fib", "-p", v.pid)
            b = box.ctl_json("attach", "on_exit", ":fib", "-p", v.pid)
            assert v.ask("fib 20") == "6765"
            for link in links(a) + links(b):
                box.ctl("detach", link)
            entries, exits = counters(box)
            assert entries == exits == 21891, (entries, exits)
            results = {int(e["key"]): int(e["value"]) for e in box.ctl_json("map", "dump", "results")["elements"]}
            assert results[6765] == 1 and results[4181] == 1 and results[1] > 1000, results
            assert sum(results.values()) == 21891


def test_tail_call():
    """The return of where it leads is its own: taken over at the jump."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            latency = box.ctl_start("latency", ":tail_caller", "-p", v.pid, "--json")
            latency.wait_attached()
            assert v.ask("tail_caller 300") == "300"
            (l,) = json.loads(latency.interrupt())["latencies"]
            assert l["histogram"]["count"] == 300, l
            r = box.ctl("symbols", ":tail_caller", "-p", v.pid)
            assert re.search(r":tail_caller\s+\d+\s+jump\s+tail\s+.*tail_target", r.stdout), r.stdout
            count = box.ctl_start("count", ":tail_caller", ":tail_target", "-p", v.pid, "--json")
            count.wait_attached()
            assert v.ask("tail_caller 500") == "500"
            doc = json.loads(count.interrupt())
            assert total(doc, "tail_caller") == 500 and total(doc, "tail_target") == 500


def test_jumped_into_is_punned():
    """Its loop lands two bytes behind its start: two bytes are replaced, by a
    second program too while the first is there, and all is put back."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            (s,) = box.ctl_json("symbols", ":jumped_into", "-p", v.pid)["symbols"]
            assert s["entry"] == "punned" and s["displaced"] == 2, s
            before = len(maps(v.pid))
            box.ctl("load", bpf("calls"))
            for _ in range(20):
                count = box.ctl_start("count", ":jumped_into", "-p", v.pid, "--json")
                count.wait_attached()
                doc = box.ctl_json("attach", "on_entry", ":jumped_into", "-p", v.pid)
                entries = counters(box)[0]
                assert v.ask("jumped_into 50") == "50"
                assert counters(box)[0] - entries == 50
                for link in links(doc):
                    box.ctl("detach", link)
                assert v.ask("jumped_into 50") == "50"
                assert total(json.loads(count.interrupt())) == 100
            wait_for(lambda: len(maps(v.pid)) <= before, "pages of stubs are gone")


def test_fork_with_probes_in_place():
    """Children inherit the probes, are counted, and end well."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            count = box.ctl_start("count", ":in_child", "-p", v.pid, "--json")
            count.wait_attached()
            assert v.ask("with_children 20") == "20"
            doc = json.loads(count.interrupt())
        assert total(doc) == 2000, doc["counts"]


def test_lasting_child_is_unpatched_too():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        count = box.ctl_start("count", ":in_child", "-p", v.pid, "--json")
        count.wait_attached()
        child = int(v.ask("lasting_child 1"))
        assert foreign_mappings(child)
        doc = json.loads(count.interrupt())
        assert total(doc) > 0
        for pid in (v.pid, child):
            with Untouched(pid):
                assert not foreign_mappings(pid), "process %d keeps our mappings" % pid
        assert os.path.exists("/proc/%d" % child)


def test_arguments_and_helpers():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            doc = box.ctl_json("attach", "on_args", ":eight", "-p", v.pid)
            log = box.ctl_start("prog", "tracelog")
            assert v.ask("eight 9") == "9"

            def logged():
                with open(log.out_path) as f:
                    return f.read().count("eight(1, 2)")
            wait_for(lambda: logged() == 9, "nine lines in the trace log")
            log.interrupt()
            (e,) = box.ctl_json("map", "dump", "last")["elements"]
            for link in links(doc):
                box.ctl("detach", link)
        value = e["value"]
        assert [int(a) for a in value["args"]] == [1, 2, 3, 4, 5, 6], value
        assert int(value["pid"]) == v.pid and int(value["tid"]) == v.pid, value
        assert value["comm"] == "e2e_shapes", value
        nm = subprocess.run(["nm", os.path.join(VICTIMS, "e2e_shapes")], capture_output=True, text=True).stdout
        low = int(re.search(r"^([0-9a-f]+) [TW] eight$", nm, re.M).group(1), 16)
        assert int(value["func_ip"]) & 0xfff == low & 0xfff, value


def test_one_object_in_several_processes():
    """One object's maps are shared by all its targets."""
    with Sandbox() as box:
        vs = [Victim(box, "e2e_shapes") for _ in range(3)]
        box.ctl("load", bpf("calls"))
        attached = []
        for v in vs:
            attached += links(box.ctl_json("attach", "on_entry", ":two_returns", "-p", v.pid))
        for v in vs:
            assert v.ask("two_returns 1000") == "1000"
        assert counters(box)[0] == 3000
        box.ctl("detach", attached[0])
        assert vs[0].ask("two_returns 1000") == "1000"
        assert vs[1].ask("two_returns 1000") == "1000"
        assert counters(box)[0] == 4000
        box.ctl("unload", "calls")
        for v in vs:
            with Untouched(v.pid):
                assert not foreign_mappings(v.pid)


def test_killed_target_leaves_the_maps():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        box.ctl("load", bpf("calls"))
        box.ctl("attach", "on_entry", ":two_returns", "-p", v.pid)
        assert v.ask("two_returns 1000") == "1000"
        v.p.kill()
        v.p.wait()
        assert counters(box)[0] == 1000
        wait_for(lambda: box.ctl_json("link", "list")["links"] == [], "the link ends with its process")


if __name__ == "__main__":
    run()
