#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""bpfctl as people and scripts use it: exit statuses, words, exact integers,
`-- CMD`, the private daemon, and the daemon's own manners."""

import json
import os
import re
import signal
import subprocess

from harness import BPFCTL, BUILD, VICTIMS, Asked, Sandbox, Skip, Untouched, assert_text_identical, foreign_mappings, \
    need, need_root, run, total, wait_for
from victims import Victim, bpf, links


def status_of(box, *args, **kw):
    r = box.ctl(*args, check=False, **kw)
    return r.returncode, r.stdout, r.stderr


def test_exit_statuses_and_words():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            code, _, err = status_of(box, "count", ":two_return", "-p", v.pid, "--for", "1s")
            assert code == 5 and "e2e_shapes has no function 'two_return'; near: two_returns" in err, (code, err)
            code, out, err = status_of(box, "count", "libc:mallok", "-p", v.pid, "--for", "1s", "--json")
            doc = json.loads(out)["error"]
            assert code == 5 and doc["code"] == "symbol_not_found" and doc["exit"] == 5, (code, out)
            assert "malloc" in doc["near"] and "mallok" in doc["message"], doc
            assert status_of(box, "count", ":two_returns", "--for", "1s")[0] == 2
            assert status_of(box, "count", ":two_returns", "-p", v.pid, "--for", "1")[0] == 2
            assert status_of(box, "count", ":two_returns", "-p", v.pid, "--frobnicate")[0] == 2
            assert status_of(box, "nonsense")[0] == 2
            assert status_of(box, "count", ":f", "-p", 999999999, "--for", "1s")[0] == 4
            assert status_of(box, "count", ":f", "-n", "no-such-program", "--for", "1s")[0] == 4
            code, _, err = status_of(box, "latency", "libc:setjmp", "-p", v.pid, "--for", "1s")
            assert code == 8 and "returns twice" in err and "Nothing was touched" in err, (code, err)
            code, _, err = status_of(box, "load", bpf("unsafe"))
            assert code == 6 and "Nothing was loaded" in err, (code, err)
            code, _, err = status_of(box, "load", "/nonexistent.o")
            assert code == 1 and "/nonexistent.o" in err, (code, err)
            code, _, err = status_of(box, "load", "/bin/true")
            assert code in (1, 6) and len(err.strip().splitlines()) >= 1, (code, err)
            for line in (err,):
                assert line.startswith("bpfctl: "), line
            # the victim is stripped of nothing by all this
            assert v.ask("two_returns 5") == "5"
        r = subprocess.run([BPFCTL, "--socket", box.dir + "/none", "status"], capture_output=True, text=True)
        assert r.returncode == 3, (r.returncode, r.stderr)


PIECES = """
#include <stdio.h>
__attribute__((noipa)) int whole(int x) { return x + 1; }
extern __typeof(whole) other __attribute__((alias("whole")));
__asm__(".text\\n.type whole.cold, @function\\nwhole.cold: lea 1(%rdi), %rax\\n nop\\n ret\\n.size whole.cold, .-whole.cold\\n");
int main(void) { puts("ready"); fflush(stdout); return getchar() + other(whole(1)); }
"""


def test_symbols_of_all_kinds():
    """What stands for another function, has several names or versions, or is a piece of one."""
    need_root()
    with Sandbox() as box:
        with open(box.dir + "/pieces.c", "w") as f:
            f.write(PIECES)
        subprocess.run([need("gcc"), "-O2", "-o", box.dir + "/pieces", box.dir + "/pieces.c"], check=True)
        v = Asked(box, box.dir + "/pieces")

        def symbols(*specs):
            return {s["symbol"]: s for s in box.ctl_json("symbols", *specs, "-p", v.pid)["symbols"]}
        got = symbols("libc:memcpy", "libc:memcpy@GLIBC_2.2.5", "libc:fopen", "libc:_IO_fopen")
        # the one that was chosen here, not what chooses
        assert re.match(r"__mem\w+ on this machine$", got["memcpy"]["note"]), got["memcpy"]
        assert got["memcpy"]["bytes"] > 100 and got["memcpy"]["entry"] != "-", got["memcpy"]
        old = got["memcpy@GLIBC_2.2.5"]
        assert old["address"] != got["memcpy"]["address"] and old["entry"] != "-", old
        assert symbols("libc:memcpy@@GLIBC_2.14")["memcpy"] == got["memcpy"]
        # one place, by the name that was asked for; a glob names it once
        names = symbols(":whole", ":other")
        assert len({s["address"] for s in names.values()}) == 1 and set(names) <= {"whole", "other"}, names
        globbed = symbols(":*[eo][lt]*e*")
        assert sum(s["address"] == names["whole"]["address"] for s in globbed.values()) == 1, globbed
        assert not [s for s in globbed if ".cold" in s], globbed
        r = box.ctl("symbols", ":whole.cold", "-p", v.pid, check=False)
        assert r.returncode == 8 and "a piece that the compiler cut out" in r.stderr, (r.returncode, r.stderr)
        r = box.ctl("symbols", "libc:memcpy@GLIBC_9", "-p", v.pid, check=False)
        assert r.returncode == 5, (r.returncode, r.stdout, r.stderr)


def test_what_is_not_safe_is_explained():
    """An object as clang makes it: the source line, the rule, what to do; and nothing is left of it."""
    leak = os.path.join(BUILD, "tests/vm/leak.bpf.o")
    iterator = os.path.join(BUILD, "tests/vm/iter.bpf.o")
    says = [r"bpfctl: leak\.bpf\.o: program on_malloc is not safe: R0 may be NULL at leak\.bpf\.c:23\. Nothing was loaded\.",
            r" +22   __u64 \*n = bpf_map_lookup_elem\(&sizes, &key\);",
            r"  > +23   \*n \+= 1;",
            r" +insn \d+: r1 = \*\(u64 \*\)\(r0 \+0\): R0 invalid mem access 'map_value_or_null'",
            r"  try: +compare it with NULL first: if \(!p\) return 0;"]
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        maps = box.ctl_json("map", "list")["maps"]
        with Untouched(v.pid):
            code, out, err = status_of(box, "load", leak, "-p", v.pid)
            assert code == 6 and not out, (code, out)
            assert re.fullmatch("\n".join(says) + "\nfull log: add -v\n", err), err
            code, out, err = status_of(box, "load", leak, "-p", v.pid, "-v")
            log = r"\n\n0: R1=ctx\(\) R10=fp0\n(.*\n)*R0 invalid mem access 'map_value_or_null'\nprocessed \d+ insns .*\n"
            assert code == 6 and re.fullmatch("\n".join(says) + log, err), err
            code, out, err = status_of(box, "load", leak, "--json")
            doc = json.loads(out)["error"]
            assert code == 6 and doc["code"] == "rejected" and doc["exit"] == 6, out
            assert doc["message"] in err and "\n  try: " in doc["log"] and "\nprocessed " in doc["log"], doc
            code, out, err = status_of(box, "load", iterator)
            assert code == 6 and "(bpf_iter_num_new() of bpf_for()" in err and "at iter.bpf.c:25" in err, err
        assert box.ctl_json("prog", "list")["programs"] == []
        assert box.ctl_json("map", "list")["maps"] == maps


def test_another_users_process():
    need_root()
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        os.chmod(box.dir, 0o755)
        os.chmod(box.socket, 0o666)

        def as_nobody():
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        r = subprocess.run([BPFCTL, "--socket", box.socket, "count", ":two_returns", "-p", str(v.pid), "--for", "1s"],
                           preexec_fn=as_nobody, capture_output=True, text=True)
        assert r.returncode == 7, (r.returncode, r.stderr)
        assert "belongs to user root" in r.stderr, r.stderr
        assert not foreign_mappings(v.pid)


def test_maps_by_hand_with_exact_integers():
    with Sandbox() as box:
        need_root()
        box.ctl("load", bpf("calls"))
        top = 2 ** 64 - 1
        box.ctl("map", "update", "results", str(top), "5000000000000001")
        box.ctl("map", "update", "results", "7", str(top))
        doc = box.ctl_json("map", "dump", "results")
        assert {int(e["key"]): int(e["value"]) for e in doc["elements"]} == {top: 5000000000000001, 7: top}
        raw = box.ctl("map", "dump", "results", "--json").stdout
        assert "18446744073709551615" in raw and "5000000000000001" in raw and "e+" not in raw, raw
        assert "5000000000000001" in box.ctl("map", "lookup", "results", str(top)).stdout
        box.ctl("map", "delete", "results", "7")
        r = box.ctl("map", "lookup", "results", "7", check=False)
        assert r.returncode == 1, r
        assert box.ctl("map", "update", "results", "7", "1", "exist", check=False).returncode == 1
        rodata = [m for m in box.ctl_json("map", "list")["maps"] if m["name"].endswith("rodata")]
        assert rodata and rodata[0]["frozen"], rodata
        data = [m for m in box.ctl_json("map", "list")["maps"] if m["name"].endswith(".data")]
        assert "5000000000000001" in box.ctl("map", "dump", str(data[0]["id"]), "--json").stdout


def test_maps_in_parts_and_for_good():
    with Sandbox() as box:
        need_root()
        box.ctl("load", bpf("calls"))

        def call(method, **params):
            return json.loads(box.ctl("call", method, json.dumps(dict(params, map="results"))).stdout)

        n = 60
        assert call("MapUpdateBatch", keys=[str(k) for k in range(n)], values=[str(k * k) for k in range(n)])["count"] == n
        seen, after = {}, {}
        while True:
            part = call("MapDump", count=7, **after)
            assert len(part["elements"]) <= 7, part
            for e in part["elements"]:
                assert e["key_json"] not in seen, e
                seen[e["key_json"]] = e["value_json"]
            if "next" not in part:
                break
            after = {"after": part["next"]}
        assert seen == {str(k): str(k * k) for k in range(n)}, seen
        assert call("MapDeleteBatch", keys=["0", "1", "2"])["count"] == 3
        r = box.ctl("call", "MapDeleteBatch", '{"map":"results","keys":["3","1"]}', check=False)
        assert r.returncode == 1 and "after 1 of 2: map results has no key 1" in r.stderr, r
        assert box.ctl("map", "pop", "results", "12").stdout == "key 12  value 144\n"
        r = box.ctl("map", "pop", "results", "12", check=False)
        assert r.returncode == 1 and "has no key 12" in r.stderr, r
        assert len(call("MapDump", count=1000, take=True)["elements"]) == n - 5
        assert box.ctl_json("map", "dump", "results")["elements"] == []
        box.ctl("map", "update", "results", "1", "1")
        box.ctl("map", "freeze", "results")
        for args in (["update", "results", "2", "2"], ["delete", "results", "1"], ["pop", "results", "1"], ["freeze", "results"]):
            r = box.ctl("map", *args, check=False)
            assert r.returncode in (1, 7) and "frozen" in r.stderr, r
        assert box.ctl("map", "dump", "results").stdout == "key 1  value 1\n"


def test_listings():
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        box.ctl("load", bpf("calls"))
        doc = box.ctl_json("attach", "on_entry", ":two_returns", ":eight", "-p", v.pid)
        assert len(doc["sites"]) == 2
        progs = box.ctl_json("prog", "list")["programs"]
        assert {p["name"] for p in progs} == {"on_entry", "on_exit", "on_args", "on_go_args"}
        (link,) = box.ctl_json("link", "list")["links"]
        assert link["nsites"] == 2 and link["pids"] == [v.pid]
        (target,) = box.ctl_json("target", "list")["targets"]
        assert target["pid"] == v.pid and target["mapped_bytes"] <= 1 << 20, target
        xlated = box.ctl("prog", "dump", "xlated", "on_entry").stdout
        assert re.search(r"call bpf_map_lookup_elem#1|r\d = map\[id:\d+\]", xlated) and "exit" in xlated, xlated
        jited = box.ctl("prog", "dump", "jited", "on_entry").stdout
        assert "ret" in jited, jited
        for args in (["prog", "list"], ["map", "list"], ["link", "list"], ["target", "list"], ["status"], ["doctor"],
                     ["prog", "show", "on_entry"], ["map", "show", "counts"], ["link", "show", str(link["id"])],
                     ["target", "show", str(v.pid)]):
            assert box.ctl(*args).stdout.strip(), args
            box.ctl_json(*args)
        status = box.ctl_json("status")
        assert status["links"] == 1 and status["rss_bytes"] < 20 << 20, status
        box.ctl("unload", "calls")
        assert box.ctl_json("prog", "list")["programs"] == []
        with Untouched(v.pid):
            assert not foreign_mappings(v.pid)


def test_command_under_probes():
    """-- CMD: from its first instruction, its output and status untouched."""
    need_root()
    with Sandbox() as box:
        out = box.dir + "/count.json"
        r = box.ctl("count", "libc:getppid", "libc:write", "-o", out, "--json", "--", "/usr/bin/python3", "-c",
                    "import os\nfor i in range(123): os.getppid()\nprint('hello')\nraise SystemExit(7)", check=False)
        assert r.returncode == 7, (r.returncode, r.stderr)
        assert r.stdout == "hello\n", r.stdout
        doc = json.load(open(out))
        assert total(doc, "getppid") == 123, doc
        r = box.ctl("count", ":main", "--", os.path.join(VICTIMS, "e2e_shapes"), check=False, input="two_returns 3\n")
        assert r.returncode == 0 and r.stdout == "ready\n3\n", r
        assert re.search(r"\b1\b.*:main", r.stderr), r.stderr
        assert box.ctl("count", "libc:write", "--", "/no/such/program", check=False).returncode == 127
        assert box.ctl("count", "libc:write", "--", "/etc/passwd", check=False).returncode == 126
        r = box.ctl("count", "libc:no_such_thing", "--", "/bin/echo", "ran", check=False)
        assert r.returncode == 125 and r.stdout == "", (r.returncode, r.stdout)
        r = box.ctl("count", "libc:write", "--", "/bin/sh", "-c", "kill -TERM $$", check=False)
        assert r.returncode == 128 + 15, r.returncode
        assert box.ctl("count", "libc:write", "--json", "--", "/bin/true", check=False).returncode == 2


def test_private_daemon():
    """Without --socket and without a daemon, bpfctl brings its own, and takes
    it away again."""
    need_root()
    if os.path.exists("/run/uprobed/socket"):
        raise Skip("a system daemon is running here")
    with Sandbox(daemon=False) as box:
        v = Victim(box, "e2e_shapes")
        env = {k: x for k, x in os.environ.items() if k != "UPROBED_SOCKET"}
        env["XDG_RUNTIME_DIR"] = box.dir
        with Untouched(v.pid):
            p = subprocess.Popen([BPFCTL, "count", ":two_returns", "-p", str(v.pid), "--json"], env=env, text=True,
                                 stdout=subprocess.PIPE, stderr=open(box.dir + "/err", "w"))
            box.procs.append(p)
            wait_for(lambda: "stood still" in open(box.dir + "/err").read(), "attached")
            assert "private" in open(box.dir + "/err").read()
            assert v.ask("two_returns 50") == "50"
            p.send_signal(signal.SIGINT)
            out, _ = p.communicate(timeout=30)
            assert p.returncode == 0
            assert total(json.loads(out)) == 50


def test_client_killed():
    """Links of a one-shot command die with its connection."""
    with Sandbox() as box:
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            count = box.ctl_start("count", ":two_returns", "-p", v.pid)
            count.wait_attached()
            count.p.kill()
            wait_for(lambda: box.ctl_json("link", "list")["links"] == [], "its link is gone")
            assert box.ctl_json("prog", "list")["programs"] == []
            assert v.ask("two_returns 5") == "5"


def test_stopped_target_delays_itself_only():
    with Sandbox() as box:
        a, b = Victim(box, "e2e_shapes"), Victim(box, "e2e_shapes")
        box.ctl("load", bpf("calls"))
        a.p.send_signal(signal.SIGSTOP)
        wait_for(lambda: open("/proc/%d/stat" % a.pid).read().split(") ")[1][0] in "Tt", "it stopped")
        slow = box.ctl_start("attach", "on_entry", ":two_returns", "-p", a.pid)
        with Untouched(b.pid):
            doc = box.ctl_json("attach", "on_entry", ":two_returns", "-p", b.pid, timeout=20)
            assert b.ask("two_returns 10") == "10"
            box.ctl("detach", links(doc)[0])
        wait_for(lambda: slow.p.poll() is not None, "the request on the stopped target ends")
        assert open("/proc/%d/stat" % a.pid).read().split(") ")[1][0] in "Tt", "it was set running"
        a.p.send_signal(signal.SIGCONT)
        assert a.ask("two_returns 10") == "10"
        box.ctl("detach", "--all")
        with Untouched(a.pid):
            assert not foreign_mappings(a.pid)


def daemon_ends(sig):
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 4)
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            box.ctl("attach", "on_entry", ":hammered", "-p", v.pid)
            assert foreign_mappings(v.pid)
            box.daemon.send_signal(sig)
            box.daemon.wait(20)
            assert box.daemon.returncode == 0, box.daemon_log()
            assert_text_identical(v.pid)
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a, "it goes on")


def test_sigterm_detaches_everything():
    daemon_ends(signal.SIGTERM)


def test_sigint_detaches_everything():
    daemon_ends(signal.SIGINT)


def test_killed_daemon_is_cleaned_up_after():
    """The target goes on; the next daemon finds the journal and puts it right."""
    with Sandbox() as box:
        v = Victim(box, "e2e_hammer", 4)
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            box.ctl("attach", "on_entry", ":hammered", "-p", v.pid)
            box.daemon.kill()
            box.daemon.wait()
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a + 1000, "it goes on without a daemon")
            assert foreign_mappings(v.pid)
            box.start_daemon()
            wait_for(lambda: not foreign_mappings(v.pid), "the next daemon cleans up")
            a = int(v.ask("count"))
            wait_for(lambda: int(v.ask("count")) > a, "it goes on")


def test_socket_in_use():
    need_root()
    with Sandbox() as box:
        r = subprocess.run([os.path.join(os.path.dirname(BPFCTL), "../daemon/uprobed"), "--socket", box.socket],
                           capture_output=True, text=True, timeout=20)
        assert r.returncode != 0 and box.socket in r.stderr, r
        assert box.ctl("status").returncode == 0


if __name__ == "__main__":
    run()
