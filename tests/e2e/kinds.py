#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every kind of process: what it was built with, whose it is, where it lives and
in what state it is. Each is counted under load, exactly, and left as it was; or
it is refused before anything is touched, with words that say why."""

import os
import resource
import shutil
import signal
import struct
import subprocess

from harness import (VICTIMS, Asked, Sandbox, Skip, Untouched, foreign_mappings, maps, need, need_root,
                     run, wait_for)
from victims import bpf, counters, links

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../victims")
PLENTY = 20000


def source(name):
    return os.path.join(SOURCES, name)


def compile(box, name, *argv, **kw):
    """argv with {} for the output; the program's path."""
    out = os.path.join(box.dir, name)
    need(argv[0])
    r = subprocess.run([a.replace("{}", out) for a in argv], cwd=box.dir, capture_output=True, text=True, **kw)
    assert r.returncode == 0, r.stdout + r.stderr
    return out


class Process(Asked):
    """A started victim that speaks the commands of e2e_hammer.c; PID differs from
    the started process when that is a wrapper (unshare, sudo)."""

    def count(self):
        return int(self.ask("count"))

    def wait_more(self, n=PLENTY):
        a = self.count()
        wait_for(lambda: self.count() > a + n, "it goes on")


def refused(box, v, words):
    """V cannot be probed; it goes on untouched."""
    with Untouched(v.pid):
        r = box.ctl("attach", "on_entry", ":hammered", "-p", v.pid, check=False)
        assert r.returncode == 8 and words in r.stderr, (r.returncode, r.stderr)
        v.wait_more()


def counted(box, v, spec=":hammered", exits=True, lost=0, target=None):
    """Attaches and detaches V under load, and counts exactly in between. A share
    of 1/LOST of the calls does not return."""
    target = target or v.pid
    with Untouched(target):
        attached = links(box.ctl_json("attach", "on_entry", spec, "-p", target))
        if exits:
            attached += links(box.ctl_json("attach", "on_exit", spec, "-p", target))
        v.wait_more()
        v.ask("pause")
        calls, (entries, returns) = v.count(), counters(box)
        v.ask("go")
        v.wait_more()
        v.ask("pause")
        calls, entries, returns = (v.count() - calls, counters(box)[0] - entries, counters(box)[1] - returns)
        assert entries == calls, (entries, calls)
        if exits and not lost:
            assert returns == calls, (returns, calls)
        elif exits:
            assert abs(calls - returns - calls // lost) <= 64, (returns, calls)
        v.ask("go")
        for link in attached:
            box.ctl("detach", link)
        v.wait_more()


class Loaded(Sandbox):
    """With calls.bpf.o loaded."""

    def __init__(self):
        need_root()
        super().__init__()
        self.ctl("load", bpf("calls"))


# What programs are made by: name, compiler, source, options.
C = [source("e2e_hammer.c"), "-O2", "-g", "-pthread", "-o", "{}"]
BUILDS = {
    "glibc": ["gcc", *C],
    "glibc_no_pie": ["gcc", "-no-pie", *C],
    "glibc_static": ["gcc", "-static", *C],
    "glibc_static_pie": ["gcc", "-static-pie", *C],
    "musl": ["musl-gcc", *C],
    "musl_static": ["musl-gcc", "-static", *C],
    "clang": ["clang", *C],
}


def built(name, **kw):
    with Loaded() as box:
        v = Process(box, compile(box, name, *BUILDS[name]), 4)
        counted(box, v, **kw)


for _name in BUILDS:
    globals()["test_" + _name] = lambda name=_name: built(name)


def test_rust():
    with Loaded() as box:
        v = Process(box, compile(box, "rust", "rustc", "-O", "-g", source("e2e_hammer.rs"), "-o", "{}"), 4)
        counted(box, v, lost=5000)


def test_cxx():
    with Loaded() as box:
        v = Process(box, compile(box, "cxx", "g++", "-O2", "-g", "-pthread", source("e2e_hammer.cc"), "-o", "{}"), 4)
        counted(box, v, lost=5000)


GO = {
    "go": [],
    "go_pie": ["-buildmode=pie"],
    "go_stripped": ["-ldflags=-s -w"],
    "go_pie_stripped": ["-buildmode=pie", "-ldflags=-s -w"],
    "go_cgo": [],
    "go_cgo_stripped": ["-ldflags=-s -w"],
}


def go_victim(box, name="go", n=4, **env_of_victim):
    cgo = "cgo" in name
    env = dict(os.environ, HOME=box.dir, GOCACHE=os.path.join(box.dir, "cache"), GOFLAGS="", CGO_ENABLED="01"[cgo])
    sources = [source(s) for s in ["e2e_hammer.go"] + ["e2e_hammer_cgo.go"] * cgo]
    program = compile(box, name, "go", "build", *GO[name], "-o", "{}", *sources, env=env)
    return Process(box, program, n, env=dict(os.environ, **env_of_victim))


def go_built(name):
    """Goroutines on stacks that grow and move, preempted and scanned all the time."""
    with Loaded() as box:
        v = go_victim(box, name)
        counted(box, v, spec=":main.hammered")
        counted(box, v, spec=":main.(*T).Get")
        # its flags are alive where it begins: nothing of it is touched, by whichever of its names
        names = {s["symbol"]: s["entry_reason"] for s in
                 box.ctl_json("symbols", ":runtime.asyncPreempt*", "-p", v.pid)["symbols"]}
        entered = [n for n in names if n.split(".abi0")[0] == "runtime.asyncPreempt"]
        assert entered and all("entered from any instruction" in names[n] for n in entered), names
        if "cgo" in name:
            counted(box, v, spec=":main.hammeredByC")   # called by C
        if name == "go_cgo":
            counted(box, v, spec=":c_hammered")
            counted(box, v, spec=":c_and_back")


for _name in GO:
    globals()["test_" + _name] = lambda name=_name: go_built(name)


def test_go_is_not_skipped():
    with Sandbox() as box:
        box.ctl("load", "--allow-override", bpf("override"))
        v = go_victim(box)
        with Untouched(v.pid):
            r = box.ctl("attach", "skip_odd", ":main.hammered", "-p", v.pid, check=False)
            assert r.returncode == 8 and "not possible in Go" in r.stderr, (r.returncode, r.stderr)


def test_go_arguments():
    """The registers of ABIInternal, as they are in ctx: rax, rbx, rcx, rdi, rsi, r8 to r11."""
    with Loaded() as box:
        v = go_victim(box)
        with Untouched(v.pid):
            (link,) = links(box.ctl_json("attach", "on_go_args", ":main.nine", "-p", v.pid))
            assert v.ask("nine") == "285"
            (e,) = box.ctl_json("map", "dump", "calls.go_last")["elements"]
            got = e["value"]["args"] if isinstance(e["value"], dict) else e["value"]
            assert [int(x) for x in got] == list(range(1, 10)), e
            box.ctl("detach", link)


# Whose it is, and where it lives: how the same victim is started.
HAMMER = os.path.join(VICTIMS, "e2e_hammer")


def child_of(pid, comm="e2e_hammer"):
    """The victim that a wrapper has started."""
    def look():
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open("/proc/%s/stat" % entry) as f:
                        name, _, rest = f.read().rpartition(")")
                except OSError:
                    continue
                if name.endswith("(" + comm[:15]) and int(rest.split()[1]) == pid:
                    return int(entry)
        return 0
    return wait_for(look, "%d has a child %s" % (pid, comm))


def as_user(uid=65534):
    def become():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    return become


def test_other_user():
    with Loaded() as box:
        os.chmod(box.dir, 0o755)
        counted(box, Process(box, HAMMER, 4, preexec_fn=as_user()))


def test_setuid_program():
    """Started by a user, it has the rights of root."""
    with Loaded() as box:
        os.chmod(box.dir, 0o755)
        program = shutil.copy(HAMMER, box.dir)
        os.chmod(program, 0o4755)
        v = Process(box, program, 4, preexec_fn=as_user())
        with open("/proc/%d/status" % v.pid) as f:
            assert "Uid:\t65534\t0\t0\t0" in f.read(), "not setuid"
        counted(box, v)
        box.ctl("unload", "calls")
        os.chmod(box.socket, 0o666)
        r = box.ctl("count", ":hammered", "-p", v.pid, "--for", "1s", check=False, preexec_fn=as_user())
        assert r.returncode == 7, (r.returncode, r.stderr)
        assert not foreign_mappings(v.pid)


def unshared(*options):
    need("unshare")
    with Loaded() as box:
        v = Process(box, "unshare", *options, "--fork", "--kill-child", HAMMER, 4)
        counted(box, v, target=child_of(v.pid))


def test_pid_namespace():
    unshared("--pid")


def test_pid_and_mount_namespace():
    unshared("--pid", "--mount", "--mount-proc")


def test_user_namespace():
    unshared("--user", "--map-root-user", "--pid", "--mount")


def test_chroot():
    """With a root of its own, in which its program and libraries have other paths
    than here."""
    with Loaded() as box:
        root = os.path.join(box.dir, "root")
        files = subprocess.run(["ldd", HAMMER], capture_output=True, text=True, check=True).stdout.split()
        for path in [f for f in files if f.startswith("/")]:
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            shutil.copy(path, root + path)
        shutil.copy(HAMMER, root + "/hammer")
        counted(box, Process(box, "/hammer", 4, preexec_fn=lambda: os.chroot(root)))


# What happened to its file.

def test_deleted():
    with Loaded() as box:
        program = shutil.copy(HAMMER, box.dir)
        v = Process(box, program, 4)
        os.unlink(program)
        counted(box, v)


def test_upgraded():
    """Another program stands where its own did: symbols come from the one that
    runs."""
    with Loaded() as box:
        program = shutil.copy(HAMMER, box.dir)
        v = Process(box, program, 4)
        os.rename(shutil.copy(os.path.join(VICTIMS, "e2e_shapes"), os.path.join(box.dir, "new")), program)
        counted(box, v)
        r = box.ctl("count", ":two_returns", "-p", v.pid, "--for", "1s", check=False)
        assert r.returncode == 5, (r.returncode, r.stderr)


# In what state it is.

def limited(box, which, value):
    v = Process(box, HAMMER, 4)
    resource.prlimit(v.pid, which, (value, value))
    return v


def test_no_free_descriptor():
    """Its limit is reached: what has to be passed to it is refused."""
    with Loaded() as box:
        refused(box, limited(box, resource.RLIMIT_NOFILE, 3), "no free descriptor")


def test_one_free_pair_of_descriptors():
    with Loaded() as box:
        counted(box, limited(box, resource.RLIMIT_NOFILE, 6))


def test_500_threads():
    with Loaded() as box:
        counted(box, Process(box, HAMMER, 500, 20, 20000))


def in_state(box, state, threads=4, burst=0, **kw):
    """e2e_hammer in one of its states."""
    return Process(box, HAMMER, threads, burst, 500, state, **kw)


def test_threads_that_come_and_go():
    """A thread lives for fifty calls: those that are born and die in every phase of an attach and a detach count."""
    with Loaded() as box:
        counted(box, in_state(box, "churn"))


def numbered(pid):
    """The threads that have a record of their own in the table of the process."""
    lo = next(int(m[0].split("-")[0], 16) for m in maps(pid) if "uprobed-threads" in m[-1])
    with open("/proc/%d/mem" % pid, "rb", 0) as mem:
        mem.seek(lo + 4096)   # base/target_abi.h: THREAD_RECS_OFF, struct thread_rec
        table = mem.read(1024 * 128)
    return {tid for tid in struct.unpack_from("<%dI" % (len(table) // 4), table)[::32] if tid}


def test_records_of_threads():
    """That of a thread that has ended is given back, that of a fork child is not."""
    with Loaded() as box:
        v = in_state(box, "forks", threads=1)
        (link,) = links(box.ctl_json("attach", "on_entry", ":hammered", "-p", v.pid))
        before = set(map(int, os.listdir("/proc/%d/task" % v.pid)))
        assert v.ask("release") == "released"
        child = child_of(v.pid)
        wait_for(lambda: child in numbered(v.pid), "the child calls")
        ended = wait_for(lambda: before - set(map(int, os.listdir("/proc/%d/task" % v.pid))), "its thread ends")
        wait_for(lambda: not ended & numbered(v.pid), "the daemon comes by")
        assert child in numbered(v.pid), numbered(v.pid)
        box.ctl("detach", link)
        wait_for(lambda: not foreign_mappings(v.pid) and not foreign_mappings(child), "both are as before")


def test_leader_has_ended():
    """The thread that the process is named after is a zombie; the others go on."""
    with Loaded() as box:
        v = in_state(box, "no_leader")
        wait_for(lambda: state(v.pid) == "Z", "the leader has ended")
        counted(box, v)


def test_process_that_shares_the_memory():
    """Started by clone with CLONE_VM alone: it stands still with the threads, and is no target of its own."""
    with Loaded() as box:
        v = in_state(box, "sibling")
        counted(box, v)
        link = links(box.ctl_json("attach", "on_entry", ":hammered", "-p", v.pid))
        assert len(box.ctl_json("target", "list")["targets"]) == 1
        r = box.ctl("attach", "on_entry", ":hammered", "-p", child_of(v.pid), check=False)
        assert r.returncode == 8 and "shares its memory with process %d" % v.pid in r.stderr, (r.returncode, r.stderr)
        box.ctl("detach", *link)


def test_parent_of_a_vfork_child():
    with Loaded() as box:
        v = in_state(box, "vfork")
        with Untouched(v.pid):
            r = box.ctl("attach", "on_entry", ":hammered", "-p", v.pid, check=False)
            assert r.returncode == 1 and "waits for a child that it started with vfork" in r.stderr, r.stderr
            v.wait_more()
        assert v.ask("release") == "released"
        counted(box, v)


def test_filter_that_kills_for_what_we_call():
    """Root suspends the filter; a user who may not is refused."""
    with Loaded() as box:
        os.chmod(box.dir, 0o755)
        v = in_state(box, "filter_mmap", preexec_fn=as_user())
        counted(box, v)
        os.chmod(box.socket, 0o666)
        box.ctl("unload", "calls")
        r = box.ctl("count", ":hammered", "-p", v.pid, "--for", "1s", check=False, preexec_fn=as_user())
        assert r.returncode == 7 and "which only root can look at and suspend" in r.stderr, (r.returncode, r.stderr)
        assert not foreign_mappings(v.pid)
        v.wait_more()


def test_filter_that_kills_on_the_way_back():
    with Loaded() as box:
        refused(box, in_state(box, "filter_sigreturn"), "rt_sigreturn")


def locked_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmLck:"))


def test_locked_memory():
    with Loaded() as box:
        v = in_state(box, "locked")
        assert locked_kib(v.pid), "nothing is locked"
        counted(box, v)


def test_locked_memory_at_its_limit():
    """All that it maps is locked, and it may lock no more."""
    with Loaded() as box:
        os.chmod(box.dir, 0o755)

        def become():
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 17, 1 << 17))   # so that the limit suffices at first
            as_user()()
        v = in_state(box, "locked_full", preexec_fn=become)
        assert locked_kib(v.pid), "nothing is locked"
        refused(box, v, "limit of address space or of locked memory")


def test_address_space_at_its_limit():
    with Loaded() as box:
        refused(box, limited(box, resource.RLIMIT_AS, 4096), "limit of address space")


def state(pid):
    with open("/proc/%d/stat" % pid) as f:
        return f.read().rpartition(")")[2].split()[0]


def test_stopped():
    """It is attached to and detached from while SIGSTOP holds it, and stays so."""
    with Loaded() as box:
        v = Process(box, HAMMER, 4)
        with Untouched(v.pid):
            os.kill(v.pid, signal.SIGSTOP)
            wait_for(lambda: state(v.pid) == "T", "it is stopped")
            (link,) = links(box.ctl_json("attach", "on_entry", ":hammered", "-p", v.pid))
            wait_for(lambda: state(v.pid) == "T", "it is stopped still")
            assert counters(box)[0] == 0
            os.kill(v.pid, signal.SIGCONT)
            wait_for(lambda: counters(box)[0] > PLENTY, "it goes on, and is counted")
            os.kill(v.pid, signal.SIGSTOP)
            wait_for(lambda: state(v.pid) == "T", "it is stopped again")
            box.ctl("detach", link)
            wait_for(lambda: state(v.pid) == "T", "it is stopped still")
            os.kill(v.pid, signal.SIGCONT)
            v.wait_more()


def test_32_bit():
    with Loaded() as box:
        program = compile(box, "small", "gcc", "-m32", *C)
        try:
            v = Process(box, program, 4)
        except OSError:
            raise Skip("this kernel runs no 32-bit programs")
        r = box.ctl("attach", "on_entry", ":hammered", "-p", v.pid, check=False)
        assert r.returncode == 8 and "is a 32-bit program" in r.stderr, (r.returncode, r.stderr)
        assert not foreign_mappings(v.pid)
        v.wait_more()


def traced_by(name, *argv):
    need(argv[0])
    with Loaded() as box:
        v = Process(box, HAMMER, 4)
        tracer = box.start(*[a.replace("{}", str(v.pid)) for a in argv], stdin=subprocess.PIPE)

        def tracers():
            with open("/proc/%d/status" % v.pid) as f:
                return int(next(l for l in f if l.startswith("TracerPid:")).split()[1])
        wait_for(tracers, "it is traced")
        r = box.ctl("attach", "on_entry", ":hammered", "-p", v.pid, check=False)
        assert r.returncode == 7 and "is being traced by %s (pid %d)" % (name, tracers()) in r.stderr, r.stderr
        assert not foreign_mappings(v.pid)
        tracer.terminate()
        tracer.kill()
        tracer.wait()
        wait_for(lambda: not tracers(), "it is not traced any more")
        counted(box, v)


def test_traced_by_gdb():
    traced_by("gdb", "gdb", "-q", "-nx", "-p", "{}")


def test_traced_by_strace():
    traced_by("strace", "strace", "-f", "-e", "trace=none", "-p", "{}")


if __name__ == "__main__":
    run()
