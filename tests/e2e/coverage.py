#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Which tactic covers how many functions of real binaries, and why the rest is refused: the table of
docs/injector.md, from what `bpfctl symbols --trap` says about every function.

    coverage.py [FILE…]    default: ten binaries, those of them that are installed
"""

import collections
import glob
import json
import os
import re
import sys

from harness import Sandbox, maps, wait_for

LIBS = "/usr/lib/x86_64-linux-gnu/"
DEFAULT = [LIBS + "libc.so.6", LIBS + "libstdc++.so.6", LIBS + "libcrypto.so.3", LIBS + "libsqlite3.so.0",
           "/usr/bin/redis-server", "/usr/bin/python3.11", "/usr/lib/postgresql/*/bin/postgres", "/usr/bin/node",
           "/usr/lib/jvm/*/lib/server/libjvm.so", "/usr/sbin/nginx"]


def kind(reason):
    """A reason without the names, numbers and addresses of one function."""
    reason = re.sub(r"ends by jumping (to|into|through) .*", "ends by a tail call", reason)
    reason = re.sub(r"runs on into .*", "runs on into another function", reason)
    reason = re.sub(r"its return at \S+|the return in its cold part, at \S+", "a return", reason)
    return re.sub(r"\b(0x[0-9a-f]+|\d+)\b", "…", reason)


def symbols(box, path):
    """Of a library in a process that has loaded it and does nothing; of a program in a run of itself."""
    if ".so" not in path:
        box.ctl("symbols", ":*", "--trap", "--json", "-o", box.dir + "/symbols", "--", path, "--version", timeout=600)
        with open(box.dir + "/symbols") as f:
            return json.load(f)
    p = box.start("sleep", "1000", env=dict(os.environ, LD_PRELOAD=path))
    name = os.path.basename(path).split(".so")[0]
    wait_for(lambda: any(name in " ".join(m) for m in maps(p.pid)), "it is loaded")
    doc = box.ctl_json("symbols", name + ":*", "--trap", "-p", p.pid, timeout=600)
    p.kill()
    p.wait()
    return doc


def main():
    reasons = {"entry": collections.Counter(), "exit": collections.Counter()}
    print("| file | functions | entry: jump | punned | trap | refused | exit: ret | tail | take-over | trap | refused |")
    print("|------|-----------|-------------|--------|------|---------|-----------|------|-----------|------|---------|")
    with Sandbox() as box:
        for pattern in sys.argv[1:] or DEFAULT:
            path = next(iter(sorted(glob.glob(pattern))), None)
            if not path:
                continue
            doc = symbols(box, path)
            n = {"entry": collections.Counter(), "exit": collections.Counter()}
            for s in doc["symbols"]:
                for side in n:
                    why = s[side + "_reason"]
                    n[side]["refused" if why else s[side]] += 1
                    if why:
                        reasons[side][kind(why)] += 1
            e, x = n["entry"], n["exit"]
            assert set(e) <= {"jump", "punned", "trap", "refused"}, e
            assert set(x) <= {"ret", "tail", "takeover", "trap", "refused"}, x
            print("| %s | %s |" % (os.path.basename(path), " | ".join("{:,}".format(k) for k in (
                len(doc["symbols"]), e["jump"], e["punned"], e["trap"], e["refused"], x["ret"], x["tail"],
                x["takeover"], x["trap"], x["refused"]))), flush=True)
    for side in ("entry", "exit"):
        print("\nWhy an %s is refused, over all:\n" % side)
        for why, count in reasons[side].most_common(12):
            print("- {:,}: {}".format(count, why))


if __name__ == "__main__":
    main()
