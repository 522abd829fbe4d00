#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Objects of each compiler for each -mcpu (tests/vm/compilers) through the real
daemon: they load, and what they do in a process is the same."""

import glob
import os

from harness import BUILD, Sandbox, Untouched, need_root, run
from victims import Victim, links

OBJECTS = sorted(glob.glob(os.path.join(BUILD, "tests/vm/instructions-*.bpf.o")))


def variant(path):
    return os.path.basename(path)[len("instructions-"):-len(".bpf.o")]


def test_there_are_objects():
    names = {variant(path) for path in OBJECTS}
    assert {n[-2:] for n in names} >= {"v1", "v2", "v3"}, names
    if not any(n.endswith("v4") for n in names):
        print("# none for -mcpu=v4: no compiler here knows it")


def test_each_loads_and_counts():
    need_root()
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        for path in OBJECTS:
            with Untouched(v.pid):
                box.ctl("load", path)
                progs = {p["name"] for p in box.ctl_json("prog", "list")["programs"]}
                want = {"run_arithmetic", "calls", "data", "maps", "core", "types"} | ({"far"} if "v4" in path else set())
                assert progs >= want, (path, progs)
                bss = [m for m in box.ctl_json("map", "list")["maps"] if m["name"].endswith(".bss")]
                docs = [box.ctl_json("attach", name, ":two_returns", "-p", v.pid)
                        for name in ("data", "far" if "far" in want else "calls")]
                assert v.ask("two_returns 5") == "5", path
                dump = box.ctl_json("map", "dump", bss[0]["id"])["elements"][0]["value"]
                assert int(dump["in_bss"]) == 5, (path, dump)
                for doc in docs:
                    box.ctl("detach", links(doc)[0])
                box.ctl("unload", os.path.basename(path)[:-len(".bpf.o")])


if __name__ == "__main__":
    run()
