#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""USDT probes: what programs read through libbpf's usdt.bpf.h is what was passed,
semaphores are raised and lowered, and real programs' probes work."""

import glob
import json
import os
import re
import subprocess

from harness import VICTIMS, Sandbox, Skip, Untouched, need, need_root, run, total, wait_for
from soak import Connection
from victims import Victim, bpf

NARGS = 12
INDEXED = re.compile(r"\(%\w+,%\w+")
PROBES = ["unsigned_args", "signed_args", "constants", "many", "indexed", "places", "watched"]
COUNTS = {"unsigned_args": 4, "signed_args": 4, "constants": 4, "many": 12, "indexed": 3, "places": 1, "watched": 1}


def victim(box, name="e2e_usdt"):
    if not os.path.exists(os.path.join(VICTIMS, name)):
        raise Skip("built without <sys/sdt.h> (systemtap-sdt-dev)")
    return Victim(box, name)


def notes(path):
    """(provider, name, arguments) as readelf shows them."""
    text = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
    return re.findall(r"Provider: (\S+)\s+Name: (\S+)\s+Location: \S+ Base: \S+ Semaphore: \S+\s+Arguments: ?(.*)", text)


def read_sums(box):
    hits = [e["value"] for e in box.ctl_json("map", "dump", "hits")["elements"]]
    return hits, [int(e["value"]) for e in box.ctl_json("map", "dump", "sums")["elements"]]


def readable(name):
    """The probes whose arguments this usdt.bpf.h can read, which is before libbpf 1.7."""
    all_notes = [(n, a) for p, n, a in notes(os.path.join(VICTIMS, name)) if p == "kinds"]
    bad = {n for n, a in all_notes if INDEXED.search(a) or "rip" in a}
    return [p for p in PROBES if p in {n for n, _ in all_notes} - bad]


def check_arguments(name, must):
    with Sandbox() as box:
        v = victim(box, name)
        probes = readable(name)
        assert set(must) <= set(probes), notes(os.path.join(VICTIMS, name))
        box.ctl("load", bpf("usdt"))
        with Untouched(v.pid):
            for p in probes:
                box.ctl("attach", p, "usdt::kinds:" + p, "-p", v.pid)
            box.ctl("attach", "seen", "usdt:libe2e_usdt:shared:seen", "-p", v.pid)
            passed = json.loads(v.ask("run 500"))
            hits, sums = read_sums(box)
            for i, p in enumerate(PROBES):
                if p not in probes:
                    continue
                want = passed["sums"][i * NARGS:(i + 1) * NARGS]
                assert int(hits[i]["hits"]) == passed["hits"][i] > 0, (p, hits[i], passed["hits"][i])
                assert sums[i * NARGS:(i + 1) * NARGS] == want, (name, p, sums[i * NARGS:(i + 1) * NARGS], want)
                assert int(hits[i]["nargs"]) == COUNTS[p] and int(hits[i]["errors"]) == 0, (p, hits[i])
                assert int(hits[i]["past_end"]) == passed["hits"][i], (p, hits[i])
            i = len(PROBES)
            assert int(hits[i]["hits"]) == 500 and int(hits[i]["nargs"]) == 2, hits[i]
            assert sums[i * NARGS:i * NARGS + 2] == passed["sums"][i * NARGS:i * NARGS + 2]
            box.ctl("detach", "--all")
        assert v.ask("watched") == "0 0"


def test_arguments_in_registers_and_constants():
    check_arguments("e2e_usdt", [p for p in PROBES if p != "indexed"])


def test_arguments_on_the_stack_without_pie():
    check_arguments("e2e_usdt_plain", PROBES)


def test_arguments_in_memory():
    """By base and index, where the object's usdt.bpf.h knows that; else refused."""
    need_root()
    path = os.path.join(VICTIMS, "e2e_usdt_memory")
    if not os.path.exists(path):
        raise Skip("built without <sys/sdt.h> (systemtap-sdt-dev)")
    assert any(INDEXED.search(a) for p, n, a in notes(path) if n == "indexed"), notes(path)
    check_arguments("e2e_usdt_memory", ["unsigned_args", "signed_args", "places", "watched"])
    with Sandbox() as box:
        v = victim(box, "e2e_usdt_memory")
        with Untouched(v.pid):
            box.ctl("load", bpf("usdt"))
            r = box.ctl("attach", "indexed", "usdt::kinds:indexed", "-p", v.pid, check=False)
            assert r.returncode == 8 and "addressed by base and index" in r.stderr, r.stderr
            assert v.ask("watched") == "0 0"
            # who asks for no arguments may look on
            count = box.ctl_start("count", "usdt::kinds:indexed", "-p", v.pid, "--json")
            count.wait_attached()
            v.ask("run 100")
            assert total(json.loads(count.interrupt())) == 100


def test_places_of_one_name():
    with Sandbox() as box:
        v = victim(box)
        r = box.ctl_json("symbols", "usdt::kinds:places", "-p", v.pid)
        assert len(r["symbols"]) == 3, r
        assert len({s["address"] for s in r["symbols"]}) == 3
        with Untouched(v.pid):
            count = box.ctl_start("count", "usdt::kinds:places", "usdt::kinds:watched", "-p", v.pid, "--json")
            count.wait_attached()
            passed = json.loads(v.ask("run 1000"))
            doc = json.loads(count.interrupt())
            assert total(doc, "kinds:places") == 3000 == passed["hits"][5], doc
            assert total(doc, "kinds:watched") == 1000 == passed["hits"][6], doc
            assert {c["probe"] for c in doc["counts"]} == {"usdt::kinds:places", "usdt::kinds:watched"}
            assert doc["missed"] == 0


def test_globs_and_what_cannot_be():
    with Sandbox() as box:
        v = victim(box)
        with Untouched(v.pid):
            count = box.ctl_start("count", "usdt::*:*", "usdt:libe2e_usdt:sh*:s??n", "--not", "many", "-p", v.pid, "--json")
            count.wait_attached()
            v.ask("run 10")
            doc = json.loads(count.interrupt())
            counted = {c["symbol"]: c["count"] for c in doc["counts"]}
            assert "kinds:many" not in counted and counted["shared:seen"] == 10, doc
            assert counted["kinds:unsigned_args"] == 10, doc
        for spec, status, words in (
                ("usdt::kinds:placs", 5, "near: kinds:places"),
                ("usdt::shared:seen", 5, "use usdt:libe2e_usdt:shared:seen"),
                ("usdt:libc:x:y", 5, "has no USDT probe"),
                ("usdt::kinds", 2, "usdt:BINARY:PROVIDER:NAME"),
                ("usdt::kinds:", 2, "usdt:BINARY:PROVIDER:NAME")):
            r = box.ctl("count", spec, "-p", v.pid, check=False)
            assert r.returncode == status and words in r.stderr, (spec, r.returncode, r.stderr)
        r = box.ctl("latency", "usdt::kinds:places", "-p", v.pid, check=False)
        assert r.returncode == 8 and "nothing returns from" in r.stderr, (r.returncode, r.stderr)


def test_a_glob_goes_without_what_is_too_close():
    """Probes hard behind one another, and something jumps to the third: each can be probed, not all at once."""
    if not os.path.exists(os.path.join(VICTIMS, "e2e_usdt_close")):
        raise Skip("built without <sys/sdt.h> (systemtap-sdt-dev)")
    path = os.path.join(VICTIMS, "e2e_usdt_close")
    text = subprocess.run(["readelf", "-n", path], capture_output=True, text=True).stdout
    at = {name: int(a, 16) for name, a in re.findall(r"Name: (\w+)\s+Location: (\S+),", text)}
    if at["third"] != at["second"] + 1:
        raise Skip("this compiler has put them apart")
    with Sandbox() as box:
        v = Victim(box, "e2e_usdt_close")
        with Untouched(v.pid):
            for name, calls in (("second", 10), ("third", 20)):
                count = box.ctl_start("count", "usdt::close:" + name, "-p", v.pid, "--json")
                count.wait_attached()
                v.ask("10")
                assert total(json.loads(count.interrupt())) == calls, name
            count = box.ctl_start("count", "usdt::close:*", "-p", v.pid, "--json")
            count.wait_attached()
            # the first and the last have no room by themselves, the first not everywhere
            done, refused = map(int, re.search(r"(\d+) functions?, (\d+) refused", count.err()).groups())
            assert done + refused == 5 and refused >= 3, count.err()
            v.ask("10")
            doc = json.loads(count.interrupt())
            counted = {c["symbol"]: c["count"] for c in doc["counts"]}
            assert counted["close:second"] == 10 and not {"close:third", "close:fourth"} & set(counted), counted
            # one that is named stays, wherever it is
            count = box.ctl_start("count", "usdt::close:third", "usdt::close:*", "-p", v.pid, "--json")
            count.wait_attached()
            v.ask("10")
            counted = {c["symbol"]: c["count"] for c in json.loads(count.interrupt())["counts"]}
            assert counted["close:third"] == 20 and "close:second" not in counted, counted
            r = box.ctl("count", "usdt::close:second", "usdt::close:third", "-p", v.pid, check=False)
            assert r.returncode == 8 and "too close together" in r.stderr, (r.returncode, r.stderr)


def test_cookies():
    """What bpf_usdt_cookie() says is what the attachment was made with."""
    big = 5000000000000001
    with Sandbox() as box:
        v = victim(box)
        box.ctl("load", bpf("usdt"))
        con = Connection(box.socket)
        with Untouched(v.pid):
            for name, cookie in (("unsigned_args", big), ("signed_args", 7), ("places", 0)):
                con.call("Attach", programs=[{"program": name, "probe": "uprobe"}], specs=["usdt::kinds:" + name],
                         target={"pids": [v.pid]}, cookie=str(cookie))
            v.ask("run 100")
            hits, _ = read_sums(box)
            for name, cookie in (("unsigned_args", big), ("signed_args", 7), ("places", 0)):
                h = hits[PROBES.index(name)]
                assert int(h["hits"]) > 0 and int(h["cookies"]) == int(h["hits"]) * cookie % 2**64, (name, h)
            con.close()
            box.ctl("detach", "--all")


def test_symbols_shows_arguments():
    with Sandbox() as box:
        v = victim(box)
        text = box.ctl("symbols", "usdt::kinds:*", "-p", v.pid).stdout
        assert "usdt::kinds:constants" in text and "places of USDT probes" in text, text
        doc = box.ctl_json("symbols", "usdt::kinds:constants", "usdt::kinds:signed_args", "-p", v.pid)["symbols"]
        assert [a["type"] for a in doc[1]["args"]] == ["s8", "s16", "s32", "s64"] or \
            [a["type"] for a in doc[0]["args"]] == ["s8", "s16", "s32", "s64"], doc
        for s in doc:
            assert s["semaphore"].startswith("0x") and s["entry"] in ("jump", "punned"), s


def test_semaphores():
    """Raised by one however many look on; what others did stays."""
    with Sandbox() as box:
        v = victim(box)
        box.ctl("load", bpf("usdt"))
        with Untouched(v.pid):
            assert v.ask("watched") == "0 0"
            box.ctl("attach", "watched", "usdt::kinds:watched", "-p", v.pid)
            assert v.ask("watched") == "1 0"
            box.ctl("attach", "seen", "usdt:libe2e_usdt:shared:seen", "-p", v.pid)
            assert v.ask("watched") == "1 1"
            box.ctl("attach", "places", "usdt::kinds:places", "-p", v.pid)
            assert v.ask("watched") == "1 1"
            assert v.ask("raise") == "2 1"
            box.ctl("detach", "1")
            assert v.ask("watched") == "2 1"
            box.ctl("detach", "3")
            assert v.ask("watched") == "1 1"
            box.ctl("detach", "2")
            assert v.ask("watched") == "1 0"
            # somebody has taken ours away: never below zero
            box.ctl("attach", "watched", "usdt::kinds:watched", "-p", v.pid)
            assert v.ask("lower") == "1 0" and v.ask("lower") == "0 0"
            box.ctl("detach", "--all")
            assert v.ask("watched") == "0 0"


def test_semaphores_of_fork_children():
    with Sandbox() as box:
        v = victim(box)
        box.ctl("load", bpf("usdt"))
        with Untouched(v.pid):
            box.ctl("attach", "watched", "usdt::kinds:watched", "-p", v.pid)
            assert v.ask("fork") == "1 0"
            box.ctl("detach", "--all")
            assert v.ask("watched") == "0 0"
            assert v.ask("child") == "0 0"


def test_semaphores_when_the_daemon_dies():
    with Sandbox() as box:
        v = victim(box)
        box.ctl("load", bpf("usdt"))
        with Untouched(v.pid):
            box.ctl("attach", "watched", "usdt::kinds:watched", "-p", v.pid)
            box.ctl("attach", "seen", "usdt:libe2e_usdt:shared:seen", "-p", v.pid)
            assert v.ask("fork") == "1 1"
            assert v.ask("raise") == "2 1"
            box.daemon.kill()
            box.daemon.wait()
            assert v.ask("watched") == "2 1"
            box.start_daemon()
            wait_for(lambda: v.ask("watched") == "1 0", "the next daemon lowers what was raised")
            wait_for(lambda: v.ask("child") == "0 0", "in the child too")


def test_spec_elements_come_back():
    """Numbers of descriptions are used again: 300 attachments, 256 elements."""
    with Sandbox() as box:
        v = victim(box)
        box.ctl("load", bpf("usdt"))
        for _ in range(10):
            for p in ("unsigned_args", "signed_args", "many"):
                box.ctl("attach", p, "usdt::kinds:" + p, "-p", v.pid)
            box.ctl("detach", "--all")
        box.ctl("attach", "unsigned_args", "usdt::kinds:unsigned_args", "-p", v.pid)
        element = box.ctl_json("map", "dump", "__bpf_usdt_specs")["elements"]
        assert element[0]["value"]["arg_cnt"] == 4, element[0]
        used = [e for e in element if e["value"]["arg_cnt"]]
        assert len(used) <= 3, len(used)


def test_a_dry_run_takes_no_spec_element():
    with Sandbox() as box:
        v = victim(box)
        with Untouched(v.pid):
            box.ctl("load", bpf("usdt"))
            box.ctl("attach", "many", "usdt::kinds:many", "-p", v.pid, "--dry-run")
            box.ctl("attach", "unsigned_args", "usdt::kinds:unsigned_args", "-p", v.pid)
            first = box.ctl_json("map", "dump", "__bpf_usdt_specs")["elements"][0]
            assert first["value"]["arg_cnt"] == 4, first
            box.ctl("detach", "--all")


# ---- real programs ----

JAVA = """
import java.lang.management.*;
public class Collect {
    static Object[] keep = new Object[64];
    static String counts() {
        StringBuilder s = new StringBuilder();
        for (GarbageCollectorMXBean b : ManagementFactory.getGarbageCollectorMXBeans())
            s.append(b.getName().replace(' ', '_')).append(' ').append(b.getCollectionCount()).append(' ')
             .append(b.getCollectionTime()).append(' ');
        return s.toString().trim();
    }
    public static void main(String[] args) throws Exception {
        java.io.BufferedReader in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        System.out.println("ready");
        for (String line; (line = in.readLine()) != null; ) {
            int n = Integer.parseInt(line);
            for (int i = 0; i < n; i++) {
                for (int k = 0; k < 2000; k++)
                    keep[k & 63] = new byte[4096];
                System.gc();
            }
            System.out.println(counts());
        }
    }
}
"""


def jvms():
    """(java, libjvm.so) of the JDKs whose libjvm has probes."""
    for lib in sorted(glob.glob("/usr/lib/jvm/*/lib/server/libjvm.so")):
        java = os.path.join(os.path.dirname(lib), "../../bin/java")
        if os.path.exists(java + "c") and not os.path.islink(lib.split("/lib/server")[0]):
            if any(n == "gc__begin" for _, n, _ in notes(lib)):
                yield os.path.realpath(java), os.path.realpath(lib)


def parse_counts(line):
    words = line.split()
    return {words[i]: (int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 3)}


def ask(p, line):
    p.stdin.write(line + "\n")
    p.stdin.flush()
    answer = p.stdout.readline().strip()
    assert answer, "java died: %s" % p.poll()
    return answer


def test_garbage_collections_of_a_jvm():
    """The tracer in bpf/gc.bpf.c and the JVM's own statistics agree."""
    need_root()
    clang, found = need("clang"), list(jvms())
    if not found:
        raise Skip("no JDK whose libjvm.so has USDT probes")
    for java, lib in found:
        with Sandbox() as box:
            source = os.path.join(box.dir, "Collect.java")
            with open(source, "w") as f:
                f.write(JAVA)
            obj = os.path.join(box.dir, "gc.bpf.o")
            subprocess.run([clang, "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-D__TARGET_ARCH_x86",
                            "-I/usr/include/x86_64-linux-gnu", '-DLIBJVM="%s"' % lib, "-c",
                            os.path.join(os.path.dirname(__file__), "bpf/gc.bpf.c"), "-o", obj], check=True)
            p = box.start(java, "-Xmx64m", "-XX:+UseSerialGC", source, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True)
            assert p.stdout.readline() == "ready\n"
            with Untouched(p.pid):
                before = parse_counts(ask(p, "1"))
                box.ctl("load", obj, "-p", p.pid)
                after = parse_counts(ask(p, "20"))
                gc = box.ctl_json("map", "dump", "collections")["elements"][0]["value"]
                gc = {k: int(x) for k, x in gc.items()}
                done = {k: after[k][0] - before[k][0] for k in after}
                assert done["MarkSweepCompact"] == 20, (before, after)
                assert gc["begins"] == gc["ends"] == sum(done.values()), (gc, done)
                assert gc["full"] == done["MarkSweepCompact"], (gc, done)
                assert 0 < gc["longest_ns"] <= gc["total_ns"], gc
                # the JVM's milliseconds are of the work inside, cut off each time
                spent = sum(after[k][1] - before[k][1] for k in after)
                assert gc["total_ns"] >= (spent - gc["begins"]) * 1000000, (gc, spent)
                box.ctl("unload", "gc")
                assert ask(p, "1")


def test_every_probe_of_a_jvm():
    need_root()
    found = list(jvms())
    if not found:
        raise Skip("no JDK whose libjvm.so has USDT probes")
    java, lib = found[0]
    with Sandbox() as box:
        source = os.path.join(box.dir, "Collect.java")
        with open(source, "w") as f:
            f.write(JAVA)
        p = box.start(java, "-Xmx64m", "-XX:+UseSerialGC", source, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                      text=True)
        assert p.stdout.readline() == "ready\n"
        with Untouched(p.pid):
            rows = box.ctl_json("symbols", "usdt:libjvm:*:*", "-p", p.pid)["symbols"]
            assert len(rows) == len(notes(lib)), (len(rows), len(notes(lib)))
            can = [r for r in rows if r["entry"] in ("jump", "punned")]
            assert len(can) >= 0.95 * len(rows), [r for r in rows if r not in can]
            count = box.ctl_start("count", "usdt:libjvm:*:*", "-p", p.pid, "--json")
            count.wait_attached()
            ask(p, "5")
            doc = json.loads(count.interrupt())
            assert total(doc, "hotspot:gc__begin") == total(doc, "hotspot:gc__end") >= 5, doc
            assert doc["missed"] == 0
            assert ask(p, "1")


THROWER = """
#include <cstdio>
#include <stdexcept>
static volatile int level;
__attribute__((noinline)) static void deep(int n) { if (!n) throw std::runtime_error("x"); deep(n - 1); level = n; }
int main() {
    int n;
    puts("ready"); fflush(stdout);
    while (scanf("%d", &n) == 1) {
        int caught = 0;
        for (int i = 0; i < n; i++) try { try { deep(i % 7); } catch (...) { throw; } } catch (std::exception &) { caught++; }
        printf("%d\\n", caught); fflush(stdout);
    }
}
"""


def test_exceptions_of_libstdcxx():
    need_root()
    cxx = need("g++")
    with Sandbox() as box:
        binary = os.path.join(box.dir, "thrower")
        subprocess.run([cxx, "-O1", "-x", "c++", "-", "-o", binary], input=THROWER, text=True, check=True)
        p = box.start(binary, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        with Untouched(p.pid):
            count = box.ctl_start("count", "usdt:libstdc++:libstdcxx:*", "-p", p.pid, "--json")
            count.wait_attached()
            assert ask(p, "700") == "700"
            doc = json.loads(count.interrupt())
            assert total(doc, "libstdcxx:throw") == 700, doc
            assert total(doc, "libstdcxx:rethrow") == 700, doc
            assert total(doc, "libstdcxx:catch") == 1400, doc


def test_garbage_collections_of_python():
    """Its semaphores: an interpreter that spends nothing on probes until asked."""
    need_root()
    python = "/usr/bin/python3"
    if not any(n == "gc__start" for _, n, _ in notes(os.path.realpath(python))):
        raise Skip("python3 has no USDT probes")
    script = ("import gc, sys\ngc.disable()\nprint('ready', flush=True)\n"
              "for line in sys.stdin:\n  [gc.collect() for _ in range(int(line))]\n  print('done', flush=True)\n")
    with Sandbox() as box:
        p = box.start(python, "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == "ready\n"
        with Untouched(p.pid):
            count = box.ctl_start("count", "usdt::python:gc__*", "-p", p.pid, "--json")
            count.wait_attached()
            assert ask(p, "100") == "done"
            doc = json.loads(count.interrupt())
            assert total(doc, "python:gc__start") == total(doc, "python:gc__done") == 100, doc


if __name__ == "__main__":
    run()
