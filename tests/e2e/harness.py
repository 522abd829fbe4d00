# SPDX-License-Identifier: MIT
"""What the end-to-end tests share: a daemon of their own, real programs, and
the proof that a process was left as it was found.

A test is a function named test_*; run() runs those of the calling module and
prints TAP. Nothing sleeps to wait: wait_for() polls a condition with a bound.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

BUILD = os.environ.get("UPROBED_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
BPFCTL = os.path.join(BUILD, "cli/bpfctl")
UPROBED = os.path.join(BUILD, "daemon/uprobed")
VICTIMS = os.path.join(BUILD, "tests/e2e")


class Skip(Exception):
    """Raised by a test that cannot run here; the text says why."""


def need(program):
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Skip(program + " is not installed")
    return path


def need_root():
    if os.geteuid() != 0:
        raise Skip("needs root")


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("did not happen in %d s: %s" % (seconds, what))


class Sandbox:
    """A folder, the processes started in it, and a daemon; all gone at exit."""

    def __init__(self, daemon=True):
        self.dir = tempfile.mkdtemp(prefix="uprobed-e2e-")
        self.socket = os.path.join(self.dir, "socket")
        self.procs = []
        self.daemon = None
        if daemon:
            self.start_daemon()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for p in reversed(self.procs):
            if p.poll() is None:
                p.terminate()
        for p in reversed(self.procs):
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, *argv, **kw):
        kw.setdefault("stdout", subprocess.DEVNULL)
        kw.setdefault("stderr", subprocess.DEVNULL)
        p = subprocess.Popen(list(argv), cwd=self.dir, **kw)
        self.procs.append(p)
        return p

    def start_daemon(self, *options):
        log = open(os.path.join(self.dir, "daemon.log"), "ab")
        self.daemon = self.start(UPROBED, "--socket", self.socket, *options, stderr=log)
        wait_for(lambda: self.ctl("status", check=False).returncode == 0, "the daemon answers")
        return self.daemon

    def daemon_log(self):
        with open(os.path.join(self.dir, "daemon.log"), errors="replace") as f:
            return f.read()

    def ctl(self, *args, check=True, **kw):
        """Runs bpfctl; a failure that nobody expected shows its words."""
        r = subprocess.run([BPFCTL, "--socket", self.socket, *map(str, args)], capture_output=True,
                           text=True, timeout=kw.pop("timeout", 60), **kw)
        if check and r.returncode != 0:
            raise AssertionError("bpfctl %s: exit %d\n%s%s\ndaemon: %s" %
                                 (" ".join(map(str, args)), r.returncode, r.stdout, r.stderr, self.daemon_log()))
        return r

    def ctl_json(self, *args, **kw):
        return json.loads(self.ctl(*args, "--json", **kw).stdout)

    def ctl_start(self, *args, **kw):
        """bpfctl in the background; its progress line says when it is attached."""
        return Running(self, args, **kw)


class Asked:
    """A program that says "ready", and then answers each line with a line."""

    def __init__(self, box, *argv, **kw):
        need_root()
        self.p = box.start(*map(str, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kw)
        self.pid = self.p.pid
        assert self.p.stdout.readline() == "ready\n", "%s did not start" % (argv,)

    def ask(self, line):
        self.p.stdin.write("%s\n" % line)
        self.p.stdin.flush()
        answer = self.p.stdout.readline().strip()
        assert answer, "it died: %s" % self.p.poll()
        return answer

    def alive(self):
        return self.p.poll() is None


class Running:
    """A bpfctl that goes on until told otherwise."""

    def __init__(self, box, args, **kw):
        self.err_path = os.path.join(box.dir, "ctl-%d.err" % len(box.procs))
        self.out_path = self.err_path[:-3] + "out"
        self.box = box
        with open(self.err_path, "w") as err, open(self.out_path, "w") as out:
            self.p = box.start(BPFCTL, "--socket", box.socket, *map(str, args), stdout=out, stderr=err, **kw)

    def err(self):
        with open(self.err_path) as f:
            return f.read()

    def wait_attached(self):
        def there():
            if self.p.poll() is not None and "stood still" not in self.err():
                raise AssertionError("bpfctl ended early (%d): %s\ndaemon: %s" %
                                     (self.p.returncode, self.err(), self.box.daemon_log()))
            return "stood still" in self.err()
        wait_for(there, "bpfctl is attached")

    def interrupt(self):
        """Ctrl-C; returns stdout."""
        self.p.send_signal(signal.SIGINT)
        self.p.wait(30)
        if self.p.returncode != 0:
            raise AssertionError("bpfctl: exit %d\n%s" % (self.p.returncode, self.err()))
        with open(self.out_path) as f:
            return f.read()


def proc(pid, name):
    """/proc/PID/NAME; where the leader has ended, of a thread that lives."""
    with open("/proc/%d/stat" % pid) as f:
        if f.read().rpartition(")")[2].split()[0] != "Z":
            return "/proc/%d/%s" % (pid, name)
    tid = max(map(int, os.listdir("/proc/%d/task" % pid)))
    return "/proc/%d/task/%d/%s" % (pid, tid, name)


class Tail:
    """bpfctl map tail of a ring: its records as they come."""

    def __init__(self, box, ring, kind):
        self.p = box.start(BPFCTL, "--socket", box.socket, "map", "tail", ring, "struct", kind, "--json",
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def next(self):
        return json.loads(self.p.stdout.readline())["value"]


def memory_kib(pid, field):
    """Of /proc/PID/status (VmRSS) or smaps_rollup (Pss)."""
    with open("/proc/%d/%s" % (pid, "status" if field.startswith("Vm") else "smaps_rollup")) as f:
        return sum(int(line.split()[1]) for line in f if line.startswith(field + ":"))


def maps(pid):
    with open(proc(pid, "maps")) as f:
        return [line.split(None, 5) for line in f]


def fds(pid):
    return sorted(os.listdir(proc(pid, "fd")), key=int)


def assert_text_identical(pid):
    """Every executable file mapping of the process equals its file."""
    compared = 0
    for m in maps(pid):
        path = m[5].strip() if len(m) > 5 else ""
        if "x" not in m[1] or not path.startswith("/") or not os.path.exists(path):
            continue
        start, end = (int(x, 16) for x in m[0].split("-"))
        with open(proc(pid, "mem"), "rb", 0) as mem, open(path, "rb") as f:
            mem.seek(start)
            f.seek(int(m[2], 16))
            have, want = mem.read(end - start), f.read(end - start)
        have = have[:len(want)]
        if have != want:
            at = next(i for i in range(len(have)) if have[i] != want[i])
            raise AssertionError("%s differs from memory at offset 0x%x" % (path, int(m[2], 16) + at))
        compared += 1
    assert compared > 0, "nothing to compare"


def foreign_mappings(pid):
    """Mappings of ours: shared anonymous memory and our memfds."""
    return [" ".join(m).strip() for m in maps(pid)
            if len(m) > 5 and (m[5].startswith("/dev/zero") or m[5].startswith("/memfd:"))]


class Untouched:
    """with Untouched(pid): …  – afterwards text, mappings and descriptors are as before. STIR makes the process do
    something: words on the stacks of those that sleep may look like ways back into code of ours."""

    def __init__(self, pid, stir=lambda: None):
        self.pid, self.stir = pid, stir

    def __enter__(self):
        self.fds = fds(self.pid)
        self.foreign = foreign_mappings(self.pid)
        return self

    def __exit__(self, kind, *exc):
        if kind:
            return
        assert_text_identical(self.pid)
        wait_for(lambda: foreign_mappings(self.pid) == self.foreign or self.stir(),
                 "our mappings are gone from %d: %s" % (self.pid, foreign_mappings(self.pid)))
        assert len(fds(self.pid)) <= len(self.fds), "descriptors: %s, before: %s" % (fds(self.pid), self.fds)


def total(doc, symbol=None):
    """Sum of the counts of a `count --json` document."""
    return sum(c["count"] for c in doc["counts"] if symbol in (None, c["symbol"]))


def run():
    """Runs the calling module's tests; TAP on stdout; exit status 0, 1."""
    module = sys.modules["__main__"]
    wanted = sys.argv[1:]
    tests = [(n, f) for n, f in vars(module).items() if n.startswith("test_") and (not wanted or n in wanted)]
    assert tests, "no such test: %s" % wanted
    print("1..%d" % len(tests), flush=True)
    failed = 0
    for i, (name, fn) in enumerate(tests, 1):
        try:
            fn()
            print("ok %d %s" % (i, name), flush=True)
        except Skip as why:
            print("ok %d %s # SKIP %s" % (i, name, why), flush=True)
        except Exception:
            failed += 1
            for line in traceback.format_exc().splitlines():
                print("# " + line)
            print("not ok %d %s" % (i, name), flush=True)
    sys.exit(1 if failed else 0)
