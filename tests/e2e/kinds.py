#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every kind of process: what it was built with, whose it is, where it lives and
in what state it is. Each is counted under load, exactly, and left as it was; or
it is refused before anything is touched, with words that say why."""

import os
import resource
import shutil
import signal
import subprocess

from harness import (VICTIMS, Asked, Sandbox, Skip, Untouched, foreign_mappings, need, need_root, run,
                     wait_for)
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
}


def go_victim(box, name="go", n=4):
    env = dict(os.environ, HOME=box.dir, GOCACHE=os.path.join(box.dir, "cache"), GOFLAGS="", CGO_ENABLED="0")
    return Process(box, compile(box, name, "go", "build", *GO[name], "-o", "{}", source("e2e_hammer.go"), env=env), n)


def go_built(name):
    """Goroutines on stacks that grow and move, preempted and scanned all the time."""
    with Loaded() as box:
        v = go_victim(box, name)
        counted(box, v, spec=":main.hammered")
        counted(box, v, spec=":main.(*T).Get")


for _name in GO:
    globals()["test_" + _name] = lambda name=_name: go_built(name)


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


def test_locked_memory():
    with Loaded() as box:
        v = Process(box, compile(box, "locked", "gcc", "-DLOCKED", *C), 4)
        with open("/proc/%d/status" % v.pid) as f:
            assert "VmLck:\t       0 kB" not in f.read(), "nothing is locked"
        counted(box, v)


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
