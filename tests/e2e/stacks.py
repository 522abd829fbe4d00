#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Stacks that programs take at a hit, frame by frame as gdb sees them at the same
stop; and how they are named."""

import json
import os
import re
import shutil
import signal
import subprocess

import kinds
from harness import VICTIMS, Asked, Sandbox, Untouched, need, run, wait_for
from nginx import Nginx
from redis import Redis
from victims import Victim, bpf, links

# Ways to spot(), and how deep.
WAYS = [("deep", 0), ("deep", 1), ("deep", 30), ("deep", 100), ("mixed", 1), ("mixed", 40), ("qsort", 1), ("signal", 3),
        ("alt_signal", 3), ("thread", 5), ("coroutine", 7), ("asm_frame", 1), ("tail", 1)]


def state(pid):
    with open("/proc/%d/stat" % pid) as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def wait_stopped(pid):
    tasks = lambda: os.listdir("/proc/%d/task" % pid)
    wait_for(lambda: all(state(int(t)) == "T" for t in tasks()), "process %d stops itself" % pid)


GDB = """python
for t in gdb.selected_inferior().threads():
    t.switch()
    f = gdb.newest_frame()
    while f:
        if f.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME): # which are no frames on the stack
            print("frame", hex(f.pc()), f.name())
        f = f.older()
    print("end")
end
"""


def gdb_frames(box, pid, function="spot"):
    """[(address, function)] of the thread that is in FUNCTION, from its caller on."""
    script = os.path.join(box.dir, "frames.gdb")
    with open(script, "w") as f:
        f.write("set backtrace past-main on\n" + GDB)
    out = subprocess.run([need("gdb"), "-nx", "-batch", "-p", str(pid), "-x", script], capture_output=True, text=True,
                         timeout=60).stdout
    for thread in out.split("\nend\n"):
        frames = [(int(a, 16), n) for a, n in re.findall(r"^frame (0x[0-9a-f]+) (.*)$", thread, flags=re.M)]
        at = [i for i, (_, n) in enumerate(frames) if re.sub("^_*(GI_*)?", "", n) == function]
        if at:
            return frames[at[-1] + 1:]
    raise AssertionError("gdb does not find %s():\n%s" % (function, out))


def last(box):
    value = box.ctl_json("map", "dump", "stacks.last")["elements"][0]["value"]
    length = int(value["length"])
    assert length >= 0, value
    return int(value["hits"]), int(value["id"]), [int(x) for x in value["ips"][:length // 8]]


def send(v, line):
    v.p.stdin.write(line + "\n")
    v.p.stdin.flush()


def go_on(v):
    os.kill(v.pid, signal.SIGCONT)
    assert v.p.stdout.readline() == "ok\n"


def spot_address(box, v):
    return int(box.ctl_json("symbols", ":spot", "-p", v.pid)["symbols"][0]["address"], 16)


def same_as_gdb(ours, gdb, what):
    for i, (addr, name) in enumerate(gdb):
        assert i < len(ours) and ours[i] == addr, "%s: frame %d: gdb %#x in %s, ours %s\n%s\n%s" % (
            what, i, addr, name, hex(ours[i]) if i < len(ours) else "none", [(hex(a), n) for a, n in gdb],
            [hex(a) for a in ours])
    assert len(ours) == len(gdb), "%s: we have %d frames, gdb %d" % (what, len(ours), len(gdb))


def until_nameless(gdb):
    """Where a coroutine begins, which is marked as the end, gdb guesses on."""
    for i, (_, name) in enumerate(gdb):
        if name == "None":
            return gdb[:i + 1]
    return gdb


class Attached:
    """A victim with on_entry at spot()."""

    def __init__(self, box, v=None):
        self.box = box
        self.v = v or Victim(box, "e2e_stacks")
        box.ctl("load", bpf("stacks"))
        box.ctl("attach", "on_entry", ":spot", "-p", self.v.pid)
        self.hits = 0

    def stack(self, way, n, gdb=False):
        """What spot() was reached by, and what gdb says of it; the process goes on."""
        send(self.v, "%s %d" % (way, n))
        wait_stopped(self.v.pid)
        self.hits += 1
        hits, stack_id, ips = last(self.box)
        assert hits == self.hits and stack_id >= 0, (hits, self.hits, stack_id)
        frames = gdb_frames(self.box, self.v.pid) if gdb else None
        go_on(self.v)
        return (ips, frames) if gdb else ips

    def quiet(self):
        self.v.ask("quiet")

    def quiet_stack(self, way, n):
        assert self.v.ask("%s %d" % (way, n)) == "ok"
        return last(self.box)[2]


def test_same_as_gdb():
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        with Untouched(v.pid):
            at = Attached(box, v)
            spot = spot_address(box, v)
            for way, n in WAYS:
                ips, gdb = at.stack(way, n, gdb=True)
                assert ips[0] == spot, (hex(ips[0]), hex(spot))
                same_as_gdb(ips[1:], until_nameless(gdb), "%s %d" % (way, n))
            box.ctl("detach", "--all")


def test_127_frames():
    with Sandbox() as box:
        at = Attached(box)
        ips, gdb = at.stack("deep", 300, gdb=True)
        assert len(ips) == 127 and ips[1:] == [a for a, _ in gdb[:126]], (len(ips), len(gdb))


def test_assembly_without_tables():
    """The walk ends there, and never goes astray."""
    with Sandbox() as box:
        at = Attached(box)
        ips, gdb = at.stack("asm_bare", 1, gdb=True)
        assert ips[1] == gdb[0][0] and len(ips) == 2, ([hex(a) for a in ips], gdb)


def test_returns_that_are_taken_over():
    """They are shown as what they were, whether cells came before the stacks or after."""
    with Sandbox() as box:
        at = Attached(box)
        box.ctl("load", bpf("calls"))
        calls = [p["id"] for p in box.ctl_json("prog", "list")["programs"] if p["name"] == "on_exit"][-1]
        stacks = [p["id"] for p in box.ctl_json("prog", "list")["programs"] if p["name"] == "on_entry"][0]
        at.quiet()
        plain = {n: at.quiet_stack("deep_taken", n) for n in (0, 5, 60)}
        assert len(plain[60]) > 60
        box.ctl("attach", calls, ":deep_*", ":taken", ":by_*", ":in_*", "-p", at.v.pid)
        taken = [s for s in box.ctl_json("symbols", ":taken", "-p", at.v.pid)["symbols"]]
        assert taken[0]["exit"] in ("tail", "takeover"), taken
        for n, want in plain.items():
            assert at.quiet_stack("deep_taken", n) == want, n
        box.ctl("detach", "--all")
        # once more the other way round
        box.ctl("attach", calls, ":deep_*", ":taken", ":by_*", ":in_*", "-p", at.v.pid)
        box.ctl("attach", stacks, ":spot", "-p", at.v.pid)
        for n, want in plain.items():
            assert at.quiet_stack("deep_taken", n) == want, n


def test_at_returns():
    """The stack of a return is that of the caller, however the return is caught."""
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        box.ctl("load", bpf("stacks"))
        v.ask("quiet")
        for function in ("spot", "taken"):
            link = links(box.ctl_json("attach", "on_entry", ":" + function, "-p", v.pid))
            v.ask("taken 3")
            entry = last(box)[2]
            box.ctl("detach", *link)
            link = links(box.ctl_json("attach", "on_exit", ":" + function, "-p", v.pid))
            v.ask("taken 3")
            assert last(box)[2] == entry[1:], (function, [hex(a) for a in last(box)[2]], [hex(a) for a in entry])
            box.ctl("detach", *link)


def test_flags():
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        v.ask("quiet")
        box.ctl("load", bpf("stacks"))
        box.ctl("attach", "on_flags", ":spot", "-p", v.pid)
        v.ask("deep 3")
        a = {k: int(x) for k, x in box.ctl_json("map", "dump", "answers")["elements"][0]["value"].items()}
        efault, einval = -14, -22
        assert a["kernel"] == a["skip_all"] == a["kernel_stack"] == efault, a
        assert a["unknown_flag"] == a["odd_size"] == einval, a
        assert a["fast"] >= 0 and a["none"] == 0 and a["skip_2"] == 24 and a["first"] == a["third"] != 0, a


def test_each_stack_once():
    """Under load, in two threads: every stack has one id, and every hit is counted."""
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        v.ask("quiet")
        box.ctl("load", bpf("stacks"))
        with Untouched(v.pid):
            link = links(box.ctl_json("attach", "on_busy", ":spot", "-p", v.pid))
            v.ask("busy")
            hits = lambda: sum(int(e["value"]) for e in box.ctl_json("map", "dump", "seen")["elements"])
            wait_for(lambda: hits() > 200000, "many stacks")
            v.ask("rest")
            seen = {e["key"] for e in box.ctl_json("map", "dump", "seen")["elements"]}
            raw = box.ctl_json("map", "dump", "stacks")["elements"]
            # two of the thirty may want the same bucket, one time in ten
            assert 27 <= len(raw) <= 30 and {e["key"] for e in raw} == seen, (len(raw), len(seen))
            assert len({tuple(e["value"]) for e in raw}) == len(raw), raw
            box.ctl("detach", *link)


def named(box):
    """[(module, symbol, inlined, file)] of the one stack that there is."""
    elements = box.ctl_json("map", "dump", "stacks")["elements"]
    assert len(elements) == 1, len(elements)
    frames = elements[0]["frames"]
    assert [f["address"] for f in frames if not f["inlined"]] == elements[0]["value"], elements[0]
    return [(f["module"], f["symbol"], f["inlined"], f["file"]) for f in frames]


def test_names():
    with Sandbox() as box:
        at = Attached(box)
        ips, gdb = at.stack("mixed", 20, gdb=True)
        mine = [(s, f) for m, s, i, f in named(box) if not m and not i]
        theirs = ["spot"] + [n for _, n in gdb]
        assert [s for s, _ in mine] == [n for n in theirs if n in [s for s, _ in mine]] and len(mine) > 20, (mine, theirs)
        assert {f for s, f in mine if s != "_start"} == {"e2e_stacks.c"}, mine
        assert ("libc", "__libc_start_main") in [(m, s) for m, s, _, _ in named(box)], named(box)


def test_inlined_functions():
    with Sandbox() as box:
        at = Attached(box)
        at.quiet()
        at.quiet_stack("inlined", 1)
        want = [("spot", False), ("inlined", True), ("inlined_twice", True), ("by_inlined", False), ("run", False),
                ("main", False)]
        assert [(s, i) for m, s, i, _ in named(box) if not m][:6] == want, named(box)
        text = box.ctl("map", "dump", "stacks").stdout
        assert re.search(r"^  0x[0-9a-f]+ +spot\+0x0 e2e_stacks.c:\d+$", text, re.M), text
        assert re.search(r"^ +inlined_twice e2e_stacks.c:\d+ \(inlined\)$", text, re.M), text


def test_names_after_the_end():
    """Of a program whose file and process are gone."""
    with Sandbox() as box:
        path = os.path.join(box.dir, "short-lived")
        shutil.copy(os.path.join(VICTIMS, "e2e_stacks"), path)
        v = Asked(box, path)
        v.ask("quiet")
        box.ctl("load", bpf("stacks"))
        box.ctl("attach", "on_entry", ":spot", "-p", v.pid)
        v.ask("deep 4")
        before = named(box)
        assert [s for m, s, _, _ in before if not m][:3] == ["spot", "deep_b", "deep_a"], before
        os.unlink(path)
        v.p.kill()
        v.p.wait()
        wait_for(lambda: not box.ctl_json("target", "list")["targets"], "the daemon notices")
        assert named(box) == before


def test_jit_compilers():
    """By the map that node writes for perf."""
    node = need("node")
    script = "const fs = require('fs'); function hot() { fs.writeSync(1, 'x\\n'); } console.log('ready');" \
             "process.stdin.on('data', () => { for (let i = 0; i < 20; i++) hot(); });"
    with Sandbox() as box:
        p = box.start(node, "--perf-basic-prof", "--interpreted-frames-native-stack", "-e", script, stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        box.ctl("load", bpf("stacks"))
        box.ctl("attach", "on_entry", "libc:write", "-p", p.pid)
        p.stdin.write("go\n")
        p.stdin.flush()
        for _ in range(20):
            assert p.stdout.readline() == "x\n"
        names = [f["symbol"] for e in box.ctl_json("map", "dump", "stacks")["elements"] for f in e["frames"]]
        assert any("hot" in n and not n.startswith("node::") for n in names), names
        assert names[-1] == "_start", names  # through the code that it was built with, which has no tables
        box.ctl("detach", "--all")
        perf = "/tmp/perf-%d.map" % p.pid
        p.kill()
        p.wait()
        if os.path.exists(perf):
            os.unlink(perf)


PYTHON = """
import os, json, re, functools
def deep(n):
    return deep(n - 1) if n else sorted([3, 1, 2], key=functools.cmp_to_key(compare))
def compare(a, b):
    re.sub("x", stop, "x")
    return a - b
def stop(m, once=[]):
    if not once:
        once.append(1)
        os.kill(os.getpid(), 19)
    return ""
print("ready", flush=True)
input()
json.loads("[1]", object_hook=None, parse_int=lambda x: deep(8))
print("ok", flush=True)
input()
"""


def test_python():
    with Sandbox() as box:
        p = box.start(need("python3"), "-c", PYTHON, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        box.ctl("load", bpf("stacks"))
        with Untouched(p.pid):
            box.ctl("attach", "on_entry", "libc:kill", "-p", p.pid)
            p.stdin.write("\n")
            p.stdin.flush()
            wait_stopped(p.pid)
            hits, _, ips = last(box)
            assert hits == 1 and len(ips) > 30, (hits, len(ips))
            same_as_gdb(ips[1:], gdb_frames(box, p.pid, "kill"), "python3")
            os.kill(p.pid, signal.SIGCONT)
            assert p.stdout.readline() == "ok\n"
            box.ctl("detach", "--all")


LATE = """
import os, sys
print("ready", flush=True)
input()
import sqlite3
db = sqlite3.connect(sys.argv[1])
db.execute("create table t (a)")
print("ok", flush=True)
input()
db.execute("insert into t values (1)")
db.commit()
print("ok", flush=True)
input()
"""


def test_libraries_that_come_later():
    """Without frame pointers a stack ends in them; after another attach it does not."""
    with Sandbox() as box:
        p = box.start(need("python3"), "-c", LATE, os.path.join(box.dir, "db"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                      text=True)
        assert p.stdout.readline() == "ready\n"
        box.ctl("load", bpf("stacks"))
        for known in (False, True):
            link = links(box.ctl_json("attach", "on_entry", "libc:fdatasync", "-p", p.pid))
            p.stdin.write("\n")
            p.stdin.flush()
            assert p.stdout.readline() == "ok\n"
            _, stack_id, _ = last(box)
            names = [e for e in box.ctl_json("map", "dump", "stacks")["elements"] if e["key"] == stack_id][0]["frames"]
            assert any("sqlite" in f["path"] for f in names), names
            assert (names[-1]["symbol"] == "_start") == known, names
            box.ctl("detach", *link)


def test_redis():
    """Loaded first, so that many stacks are known; then at a stop in the middle of a command."""
    with Sandbox() as box:
        r = Redis(box, "--enable-debug-command", "yes")
        with Untouched(r.pid):
            doc = box.ctl_start("stacks", ":setCommand", ":sdsnewlen", "-p", r.pid, "--json")
            doc.wait_attached()
            r.benchmark("set,get,lpush", 20000)
            stacks = json.loads(doc.interrupt())
            sets = [s for s in stacks["stacks"] if s["symbol"] == "setCommand"]
            assert sum(s["count"] for s in sets) == r.calls("set") and stacks["lost"] == stacks["missed"] == 0, stacks
            for s in sets:
                names = [f["symbol"] for f in s["frames"]]
                assert names[1] == "call" and "main" in names and names[-1] == "_start", names
            box.ctl("load", bpf("stacks"))
            box.ctl("attach", "on_entry", "libc:clock_nanosleep", "-p", r.pid)
            cli = subprocess.Popen(["redis-cli", "-s", r.sock, "debug", "sleep", "5"], stdout=subprocess.DEVNULL)
            wait_for(lambda: last(box)[0], "redis sleeps")
            frames = gdb_frames(box, r.pid, "clock_nanosleep")
            same_as_gdb(last(box)[2][1:], frames, "redis")
            assert len(frames) > 8, frames
            assert cli.wait(60) == 0
            box.ctl("detach", "--all")


def test_nginx():
    """Of a worker that waits for its next event."""
    with Sandbox() as box:
        nginx = Nginx(box)
        worker = nginx.workers()[0]
        box.ctl("load", bpf("stacks"))
        with Untouched(worker):
            box.ctl("attach", "on_entry", "libc:epoll_wait", "-p", worker)
            wait_for(lambda: nginx.serves() and last(box)[0], "the worker waits again")
            frames = gdb_frames(box, worker, "epoll_wait")
            same_as_gdb(last(box)[2][1:], frames, "nginx")
            assert len(frames) > 5, frames
            box.ctl("detach", "--all")


def test_another_mount_namespace():
    """A program that only its container has; named while it lives and after."""
    need("unshare")
    script = "mount -t tmpfs none /mnt && cp %s /mnt/inside && exec /mnt/inside" % os.path.join(VICTIMS, "e2e_stacks")
    with Sandbox() as box:
        v = Asked(box, "unshare", "-m", "--propagation", "private", "sh", "-c", script)
        v.ask("quiet")
        box.ctl("load", bpf("stacks"))
        box.ctl("attach", "on_entry", ":spot", "-p", v.pid)
        v.ask("deep 2")
        before = named(box)
        assert [s for m, s, _, _ in before if not m][:3] == ["spot", "deep_b", "deep_a"], before
        v.p.kill()
        v.p.wait()
        wait_for(lambda: not box.ctl_json("target", "list")["targets"], "the daemon notices")
        assert named(box) == before


def busiest(box, v, spec):
    """The functions of the stack that SPEC was reached by most often."""
    doc = json.loads(box.ctl("stacks", spec, "-p", v.pid, "--for", "100ms", "--json").stdout)
    return [f["symbol"] for f in max(doc["stacks"], key=lambda s: s["count"])["frames"]]


def test_kinds_of_programs():
    """What other compilers and C libraries make, Go's goroutines among them."""
    for name in kinds.BUILDS:
        with Sandbox() as box:
            v = kinds.Process(box, kinds.compile(box, name, *kinds.BUILDS[name]), 2)
            names = busiest(box, v, ":hammered")
            assert names[:3] == ["hammered", "call_once", "hammer"] and len(names) > 3, (name, names)
    with Sandbox() as box:
        v = kinds.go_victim(box)
        names = busiest(box, v, ":main.hammered")
        assert names[:3] == ["main.hammered", "main.leaf", "main.hammer"] and "goexit" in names[-1], names
    with Sandbox() as box:
        v = kinds.Process(box, kinds.compile(box, "rust", "rustc", "-O", "-g", kinds.source("e2e_hammer.rs"), "-o", "{}"), 2)
        names = busiest(box, v, ":*hammered*")
        assert names[:2] == ["hammered", "e2e_hammer::hammer"] and names[-1] == "clone3", names


def test_leader_has_ended():
    """Its files are found under another thread, in its own mount namespace as well: no path of it leads there."""
    need("unshare")
    hammer = os.path.join(VICTIMS, "e2e_hammer")
    script = "mount -t tmpfs none /mnt && cp %s /mnt/hammer && exec /mnt/hammer 4 0 500 no_leader" % hammer
    with Sandbox() as box:
        v = kinds.Process(box, "unshare", "-m", "--propagation", "private", "sh", "-c", script)
        wait_for(lambda: state(v.pid) == "Z", "the leader has ended")
        names = busiest(box, v, ":hammered")
        assert names[0] == "hammered" and "hammer" in names and len(names) > 3, names


def test_nothing_is_kept():
    """The daemon holds files of processes as long as somebody may ask for names."""
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        v.ask("quiet")
        held = lambda: len(os.listdir("/proc/%d/fd" % box.daemon.pid))
        before = held()
        for _ in range(3):
            box.ctl("load", bpf("stacks"))
            box.ctl("attach", "on_entry", ":spot", "-p", v.pid)
            v.ask("deep 2")
            box.ctl("detach", "--all")
            assert named(box) and held() > before, (held(), before)
            box.ctl("unload", "stacks")
            wait_for(lambda: held() <= before, "the files are let go: %d, before %d" % (held(), before))


def command(box, v, *options):
    ctl = box.ctl_start("stacks", ":spot", "-p", v.pid, *options)
    ctl.wait_attached()
    for _ in range(3):
        v.ask("inlined 1")
    v.ask("deep 2")
    return ctl.interrupt()


def test_stacks_command():
    with Sandbox() as box:
        v = Victim(box, "e2e_stacks")
        v.ask("quiet")
        with Untouched(v.pid):
            doc = json.loads(command(box, v, "--json"))
            assert doc["schema"] == "io.uprobed.stacks/1" and doc["missed"] == doc["lost"] == 0, doc
            assert [s["count"] for s in doc["stacks"]] == [3, 1] and doc["stacks"][0]["probe"] == ":spot", doc
            assert doc["stacks"][0]["pid"] == v.pid and doc["stacks"][0]["frames"][1]["symbol"] == "inlined", doc
            lines = command(box, v, "--folded").splitlines()
            assert len(lines) == 2, lines
            assert lines[0].endswith(";main;run;by_inlined;inlined_twice;inlined;spot 3"), lines
            assert lines[1].endswith(";main;run;deep_a;deep_b;spot 1"), lines
            text = command(box, v)
            assert re.search(r"^ +3  :spot\n +← inlined e2e_stacks.c:\d+ \(inlined\)\n +← inlined_twice", text, re.M), text
            assert text.endswith("missed 0\n"), text
            text = command(box, v, "--top", "1")
            assert "… 1 more (--top 0)" in text and "deep_a" not in text, text
        r = box.ctl("stacks", ":spot", "-p", v.pid, "--folded", "--json", check=False)
        assert r.returncode == 2 and "choose one" in r.stderr, r


def test_stacks_of_a_command():
    with Sandbox() as box:
        r = box.ctl("stacks", "libc:write", "--json", "-o", box.dir + "/out", "--", "/bin/echo", "hello")
        assert r.stdout == "hello\n", r
        with open(box.dir + "/out") as f:
            doc = json.load(f)
        assert doc["stacks"][0]["count"] == 1, doc
        assert "__libc_start_main" in [f["symbol"] for f in doc["stacks"][0]["frames"]], doc


if __name__ == "__main__":
    run()
