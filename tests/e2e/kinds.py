#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every kind of process: what it was built with, whose it is, where it lives and
in what state it is. Each is counted under load, exactly, and left as it was; or
it is refused before anything is touched, with words that say why."""

import os
import shutil
import signal
import subprocess
import time

from harness import (VICTIMS, Sandbox, Skip, Untouched, assert_text_identical, foreign_mappings, need, need_root, run,
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


class Process:
    """A started victim that speaks the commands of e2e_hammer.c; PID differs from
    the started process when that is a wrapper (unshare, sudo)."""

    def __init__(self, box, *argv, **kw):
        self.p = box.start(*map(str, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **kw)
        assert self.p.stdout.readline() == "ready\n", "%s did not start" % (argv,)
        self.pid = self.p.pid

    def ask(self, line):
        self.p.stdin.write(line + "\n")
        self.p.stdin.flush()
        answer = self.p.stdout.readline().strip()
        assert answer, "the victim died: %s" % self.p.wait(5)
        return answer

    def count(self):
        return int(self.ask("count"))

    def wait_more(self, n=PLENTY):
        a = self.count()
        wait_for(lambda: self.count() > a + n, "it goes on")


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


if __name__ == "__main__":
    run()
