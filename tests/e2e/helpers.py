#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Helpers in a real process: who it is, what it gets to see of them, and what they
do to it: signals, and functions that are skipped."""

import os

from harness import Sandbox, Untouched, need, run, wait_for
from victims import Victim, bpf, failed


def found(box):
    return box.ctl_json("map", "dump", "found")["elements"][0]["value"]


def comm(f):
    text = f["comm"]
    return text if isinstance(text, str) else "".join(chr(int(c, 0)) for c in text).split("\0")[0]


def attach(box, v, *programs, function="target"):
    for prog in programs:
        box.ctl("attach", prog, ":" + function, "-p", v.pid)


def test_text():
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        with Untouched(v.pid):
            box.ctl("load", bpf("helpers"))
            attach(box, v, "on_text")
            assert v.ask("call 12").startswith("25 ")
            f = found(box)
            text = f["text"] if isinstance(f["text"], str) else "".join(chr(int(c, 0)) for c in f["text"]).split("\0")[0]
            assert text == "12 of e2e_helpers: c00000000", f
            assert (int(f["compared"]), int(f["number"])) == (0, 12), f
            box.ctl("detach", "--all")


def test_namespace():
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        with Untouched(v.pid):
            box.ctl("load", bpf("helpers"))
            attach(box, v, "on_who")
            st = os.stat("/proc/%d/ns/pid" % v.pid)
            v.ask("call 1")
            assert int(found(box)["ns_result"]) == -22, found(box)
            box.ctl("map", "update", "ns", "0", '{"dev": %d, "ino": %d}' % (st.st_dev, st.st_ino))
            v.ask("call 1")
            f = found(box)
            assert (int(f["ns_result"]), int(f["pid"]), int(f["tid"])) == (0, v.pid, v.pid), f
            v.ask("thread 1")
            f = found(box)
            assert (int(f["ns_result"]), int(f["pid"])) == (0, v.pid) and int(f["tid"]) != v.pid, f
            box.ctl("detach", "--all")


def test_name_and_ids():
    """Kept, and yet never old: what the thread itself changes is seen at once."""
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        box.ctl("load", bpf("helpers"))
        with Untouched(v.pid):
            attach(box, v, "on_who")
            v.ask("call 1")
            f = found(box)
            assert (comm(f), int(f["uid"]), int(f["gid"])) == ("e2e_helpers", 0, 0), f
            for i in range(50):
                v.ask("name N%d" % i)
                assert comm(found(box)) == "N%d" % i, (i, found(box))
            v.ask("name a-name-that-is-too-long")
            assert comm(found(box)) == "a-name-that-is-", found(box)
            v.ask("thread 1")
            assert comm(found(box)) == "a-name-that-is-", found(box)
            # by another thread, and by a system call of its own: within a tick of the kernel's
            v.ask("other elsewhere")
            wait_for(lambda: v.ask("call 1") and comm(found(box)) == "elsewhere", "the new name")
            v.ask("raw by-itself")
            wait_for(lambda: v.ask("call 1") and comm(found(box)) == "by-itself", "the new name")
            box.ctl("detach", "--all")
            # without the hooks nothing is kept; put back they are there again
            attach(box, v, "on_who")
            v.ask("name again")
            assert comm(found(box)) == "again", found(box)
            box.ctl("detach", "--all")
        attach(box, v, "on_who")
        v.ask("uid 65534")
        assert int(found(box)["uid"]) == 65534, found(box)
        box.ctl("detach", "--all")


def test_no_system_call():
    """The name is asked for once in a tick, not at each of a million hits."""
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        with Untouched(v.pid):
            box.ctl("load", bpf("helpers"))
            attach(box, v, "on_names")
            n = 200000
            trace = [need("strace"), "-c", "-f", "-e", "trace=prctl,getuid,getgid", "-o",
                     os.path.join(box.dir, "calls"), "-p", str(v.pid)]
            strace = box.start(*trace)
            wait_for(lambda: "TracerPid:\t0" not in open("/proc/%d/status" % v.pid).read(), "strace is there")
            v.ask("many %d" % n)
            strace.send_signal(2)
            strace.wait(20)
            made = sum(int(line.split()[3]) for line in open(os.path.join(box.dir, "calls"))
                       if line.split()[-1:] and line.split()[-1] in ("prctl", "getuid", "getgid"))
            assert int(found(box)["entries"]) == n, found(box)
            assert 0 < made < n / 10, made
            box.ctl("detach", "--all")


def test_signals():
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        with Untouched(v.pid):
            box.ctl("load", bpf("helpers"))
            attach(box, v, "on_signal")
            v.ask("call 1")
            assert v.ask("signals") == "1 0, 0 0"
            v.ask("call 2")
            assert v.ask("signals") == "1 1, 0 0"
            v.ask("thread 2")
            assert v.ask("signals") == "1 1, 0 1"
            v.ask("call 65")
            assert int(found(box)["sent"]) == -22, found(box)
            v.ask("call 0")
            assert int(found(box)["sent"]) == 0, found(box)
            assert v.ask("signals") == "1 1, 0 1"
            attach(box, v, "on_signal_tail")
            v.ask("call 0")
            assert v.ask("signals") == "2 1, 0 1"
            assert int(found(box)["exits"]) == 1, found(box)
            box.ctl("detach", "--all")
            v.ask("call 1")
            assert v.ask("signals") == "2 1, 0 1"


def test_override():
    with Sandbox() as box:
        v = Victim(box, "e2e_helpers")
        with Untouched(v.pid):
            code, words = failed(box.ctl("load", bpf("override"), check=False))
            assert code == 6 and "--allow-override" in words and "bpf_override_return" in words, words
            box.ctl("load", "--allow-override", bpf("override"))
            box.ctl("load", bpf("helpers"))
            code, words = failed(box.ctl("attach", "at_exit", "uretprobe::target", "-p", v.pid, check=False))
            assert code == 8 and "entries of functions" in words, words
            attach(box, v, "skip_odd")
            assert v.ask("call 4") == "9 executed 1"
            assert v.ask("call 5") == "77 executed 1"
            assert v.ask("thread 7") == "77 executed 1"
            # with others at the same function, before it and behind it, and at its exit
            attach(box, v, "looks_only", "on_entry")
            box.ctl("attach", "on_exit", "uretprobe::target", "-p", v.pid)
            assert v.ask("call 6") == "13 executed 2"
            assert v.ask("call 9") == "77 executed 2"
            f = found(box)
            assert (int(f["entries"]), int(f["exits"])) == (2, 1), f
            # by a jump from a function whose return is taken over there
            box.ctl("attach", "on_exit", "uretprobe::jumps", "-p", v.pid)
            assert v.ask("chain 4") == "77 executed 2"
            assert int(found(box)["exits"]) == 2, found(box)
            assert v.ask("chain 5") == "13 executed 3"
            assert int(found(box)["exits"]) == 4, found(box)
            box.ctl("detach", "--all")
            assert v.ask("call 5") == "11 executed 4"


if __name__ == "__main__":
    run()
