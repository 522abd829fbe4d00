#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bpfctl against a daemon of canned replies: what is printed where, and the exit
status. Usage: test_bpfctl.py BPFCTL. Prints TAP.

In expected text, ~ stands for a figure that is measured here (and the blanks
before it, which align it).
"""
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

from fake_daemon import Error, Fake, Stream, STATUS

BPFCTL = os.path.abspath(sys.argv[1])
ME = os.getpid()
TESTS = []


def test(fn):
    TESTS.append(fn)
    return fn


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def check(what, got, want):
    if got != want:
        raise Failure(f"{what}:\n  got  {got!r}\n  want {want!r}")


def check_text(what, got, want):
    pattern = re.escape(want).replace("\\~", "~").replace("~", r"\s*[\d,.]+")
    if not re.fullmatch(pattern, got):
        raise Failure(f"{what}:\n--- got\n{got}--- want\n{want}---")


def start(fake, args, utf8=True, env=None, **kw):
    full = dict(os.environ, LC_ALL="C.UTF-8" if utf8 else "C", TERM="xterm", **(env or {}))
    full.pop("UPROBED_SOCKET", None)
    socket = ["--socket", fake.path] if fake else []
    return subprocess.Popen([BPFCTL, *socket, *args], env=full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, encoding="utf-8", **kw)


def run(replies, args, status=0, out=None, err=None, utf8=True, env=None):
    """Runs bpfctl ARGS; returns (stdout, stderr, the fake daemon)."""
    fake = Fake(replies)
    try:
        process = start(fake, args, utf8, env)
        stdout, stderr = process.communicate(timeout=20)
    finally:
        fake.close()
    if process.returncode != status:
        raise Failure(f"exit status {process.returncode}, want {status}\nstdout:\n{stdout}stderr:\n{stderr}")
    if out is not None:
        check_text("stdout", stdout, out)
    if err is not None:
        check_text("stderr", stderr, err)
    return stdout, stderr, fake


# --- count -----------------------------------------------------------------

def site(symbol, cookie, pid=ME, comm="redis-server", probe="uprobe", tactic="jump", module=""):
    return {"pid": pid, "comm": comm, "module": module, "path": "/usr/bin/redis-server", "symbol": symbol,
            "address": "0x55d0c8e0", "offset": "0x4a10", "probe": probe, "tactic": tactic, "bytes": 5,
            "cookie": str(cookie)}


def hexed(*words):
    return struct.pack(f"<{len(words)}Q", *words).hex(" ")


def key(i):
    return struct.pack("<I", i).hex(" ")


def percpu(i, *values):
    return {"key": key(i), "key_json": str(i),
            "values": [{"cpu": c, "value": hexed(v), "value_json": str(v)} for c, v in enumerate(values)]}


def one_shot(tool, programs, maps, sites, refused=(), dump=None, lookup=None, missed="0", hint=None, **more):
    attach = {"links": [{"id": 7, "program": 11, "object": 3, "probe": "uprobe", "specs": [":x"], "pids": [ME],
                         "nsites": len(sites), "ephemeral": True, "created": ""}],
              "sites": sites, "refused": list(refused),
              "stops": [{"pid": p, "comm": "redis-server", "threads": 4, "stopped_ns": "4100000", "moved": 0, "retired": 0}
                        for p in sorted({s["pid"] for s in sites})]}
    if hint:
        attach["never_called_hint"] = hint
    return dict({
        "Load": {"object": {"id": 3, "name": tool}, "links": [], "sites": [], "refused": [], "stops": [], "warnings": [],
                 "programs": [{"id": 11 + i, "name": p} for i, p in enumerate(programs)],
                 "maps": [{"id": 21 + i, "name": m} for i, m in enumerate(maps)]},
        "Attach": attach,
        "Unload": {"stops": []},
        "Detach": {"detached": [7], "stops": []},
        "GetMissed": {"missed": missed},
        "GetLink": {"link": {"id": 7, "pids": []}, "sites": []},
        "MapDump": dump or (lambda params, conn: {"map": {}, "elements": []}),
        "MapLookup": lookup,
    }, **more)


def counting(sites, counts, **kw):
    elements = [percpu(i, *c) for i, c in enumerate(counts)]
    return one_shot("count", ["count"], ["counts"], sites, dump={"map": {}, "elements": elements}, **kw)


REDIS = [site(":setCommand", 0), site(":sdsnewlen", 1), site("libc:malloc", 2, module="libc"), site(":idle", 3)]
HEADER = f"redis-server {ME}: 4 functions, stood still 4.1 ms. Ctrl-C ends it.\n"


@test
def count_table():
    _, _, fake = run(
        counting(REDIS, [(306020, 0), (9000000, 184110), (1, 1), (0, 0)], missed="3"),
        ["count", ":*", "libc:malloc", "-p", str(ME), "--for", "30ms"],
        err=HEADER)
    attach = fake.called("Attach")
    check("calls", len(attach), 2)
    check("looks before it leaps", attach[0].get("dry_run"), True)
    check("specs", attach[1]["specs"], [":*", "libc:malloc"])
    check("program", attach[1]["programs"], [{"program": "11"}])
    check("target", attach[1]["target"], {"pids": [ME], "follow": True})
    check("cookies", attach[1]["cookie_base"], "0")
    check("ephemeral", (attach[1]["ephemeral"], fake.called("Load")[0]["ephemeral"]), (True, True))
    methods = [m for m, _ in fake.calls]
    if methods.index("Detach") > methods.index("MapDump"):
        raise Failure("the final counts were read before the detach")


@test
def count_rows():
    out, _, _ = run(counting(REDIS, [(306020, 0), (9000000, 184110), (1, 1), (0, 0)], missed="3"),
                    ["count", ":*", "-p", str(ME), "--for", "30ms", "-q"], err="")
    rows = [line.split() for line in out.splitlines()]
    check("header", rows[0], ["CALLS", "RATE/S", "FUNCTION"])
    check("rows", [(r[0], r[2]) for r in rows[1:4]],
          [("9,184,110", ":sdsnewlen"), ("306,020", ":setCommand"), ("2", "libc:malloc")])
    check("footer", out.splitlines()[4], "1 never called. missed 3")


@test
def count_top():
    run(counting(REDIS, [(3, 0), (5, 0), (1, 1), (0, 0)]), ["count", ":*", "-p", str(ME), "-d", "20ms", "--top", "1", "-q"],
        out="    CALLS     RATE/S  FUNCTION\n~~  :sdsnewlen\n… 2 more (--top 0). 1 never called. missed 0\n")


@test
def count_ascii():
    run(counting(REDIS, [(3, 0), (5, 0), (1, 1), (0, 0)]), ["count", ":*", "-p", str(ME), "-d", "20ms", "--top", "1", "-q"],
        utf8=False,
        out="    CALLS     RATE/S  FUNCTION\n~~  :sdsnewlen\n... 2 more (--top 0). 1 never called. missed 0\n")


@test
def count_refused():
    run(counting(REDIS, [(1, 0)] * 4, refused=[{"pid": ME, "symbol": ":tiny", "reason": "too short"}]),
        ["count", ":*", "-p", str(ME), "--for", "20ms", "-v"],
        err=f"redis-server {ME}: 4 functions, 1 refused, stood still 4.1 ms. Ctrl-C ends it.\n  :tiny refused: too short\n")


@test
def count_several_processes():
    sites = [site(":f", 0), site(":f", 1, pid=os.getppid(), comm="init")]
    out, err, _ = run(counting(sites, [(3, 0), (5, 0)]), ["count", ":f", "-n", "redis-server", "-d", "20ms"])
    check("one row", [r.split()[0] for r in out.splitlines()], ["CALLS", "8", "missed"])
    check("two headers", len(err.splitlines()), 2)


@test
def count_never_called():
    run(counting([site("./server:parse_header", 0)], [(0, 0)],
                 hint="It is inlined at server.c:101, where it cannot be seen."),
        ["count", ":parse_header", "-p", str(ME), "--for", "30ms"],
        out="./server:parse_header was not called in 30 ms. It is inlined at server.c:101, where it cannot be seen.\n"
            "missed 0\n")


@test
def count_json():
    big = 5000000000000001
    out, _, _ = run(counting(REDIS, [(2**64 - 1, 0), (big, 0), (1, 1), (0, 0)],
                             refused=[{"pid": ME, "symbol": ":tiny", "reason": "too short"}]),
                    ["count", ":setCommand", ":idle", "-p", str(ME), "--for", "20ms", "--json"])
    check("lines", out.count("\n"), 1)
    doc = json.loads(out)
    check("schema", doc["schema"], "io.uprobed.count/1")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", doc["start"]):
        raise Failure("start is " + doc["start"])
    if not 20_000_000 <= doc["duration_ns"] < 5_000_000_000:
        raise Failure(f"duration_ns is {doc['duration_ns']}")
    check("missed", doc["missed"], 0)
    check("warnings", doc["warnings"], [":tiny: too short"])
    check("first", doc["counts"][0], {"pid": ME, "comm": "redis-server", "module": "", "symbol": "setCommand",
                                      "probe": ":setCommand", "count": 2**64 - 1})
    check("module", (doc["counts"][2]["module"], doc["counts"][2]["symbol"]), ("libc", "malloc"))
    check("exact", [c["count"] for c in doc["counts"]], [2**64 - 1, big, 2, 0])
    out, _, _ = run(counting(REDIS, [(1, 0), (1, 0), (1, 1), (0, 0)]),
                    ["count", ":*", "-p", str(ME), "--for", "20ms", "--json"])
    check("a glob lists what was called", len(json.loads(out)["counts"]), 3)


@test
def count_interval():
    state = {"n": 0}

    def dump(params, conn):
        state["n"] += 1
        return {"map": {}, "elements": [percpu(0, 10 * state["n"], 0)]}

    out, _, _ = run(one_shot("count", ["count"], ["counts"], [site(":f", 0)], dump=dump),
                    ["count", ":f", "-p", str(ME), "--for", "110ms", "-i", "50ms", "--json"])
    docs = [json.loads(line) for line in out.splitlines()]
    check("documents", len(docs), 3)
    out, _, _ = run(one_shot("count", ["count"], ["counts"], [site(":f", 0)], dump=dump),
                    ["count", ":f", "-p", str(ME), "--for", "110ms", "-i", "50ms"])
    check("times", len(re.findall(r"^\d\d:\d\d:\d\d$", out, re.M)), 3)
    check("each what was new", [d["counts"][0]["count"] for d in docs], [10, 10, 10])


@test
def count_makes_room():
    sites = [site(f":f{i}", i) for i in range(1000)]
    _, _, fake = run(counting(sites, [(1, 0)] * 1000), ["count", ":*", "-p", str(ME), "--for", "20ms", "-q"])
    sizes = [load["map_sizes"][0]["max_entries"] for load in fake.called("Load")]
    check("sizes", (len(sizes), sizes[-1] >= 1000), (2, True))
    check("the small one goes", len(fake.called("Unload")), 1)


@test
def count_dry_run():
    _, _, fake = run(counting(REDIS[:1], []), ["count", ":setCommand", "-p", str(ME), "--dry-run"],
                     out=f"{'PID':>{len(str(ME))}}  COMM          TACTIC  FUNCTION\n{ME}  redis-server  jump    :setCommand\n"
                         "1 place would be probed. Nothing was touched.\n")
    check("attached", [a.get("dry_run") for a in fake.called("Attach")], [True])


@test
def breakpoints_when_asked():
    _, _, fake = run(counting(REDIS[:1], []), ["count", ":setCommand", "-p", str(ME), "--dry-run", "--trap"])
    check("count", [a.get("trap") for a in fake.called("Attach")], [True])
    _, _, fake = run({"Symbols": {"symbols": SYMBOLS}}, ["symbols", ":x", "-p", "5", "--trap"])
    check("symbols", fake.called("Symbols")[0].get("trap"), True)
    reply = {"links": [], "sites": [], "refused": [], "stops": []}
    _, _, fake = run({"Attach": reply}, ["attach", "prog", ":f", "-p", "5", "--trap"])
    check("attach", fake.called("Attach")[0].get("trap"), True)
    _, _, fake = run({"Attach": reply}, ["attach", "prog", ":f", "-p", "5"])
    check("not otherwise", "trap" in fake.called("Attach")[0], False)
    run({}, ["detach", "--all", "--trap"], status=2, err="bpfctl: 'detach' takes no --trap; see 'bpfctl help detach'\n")


@test
def count_ends_with_its_target():
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        fake = Fake(counting([site(":f", 0, pid=sleeper.pid, comm="sleep")], [(4, 0)]))
        process = start(fake, ["count", ":f", "-p", str(sleeper.pid)])
        process.stderr.readline()
        sleeper.kill()
        sleeper.wait()
        out, _ = process.communicate(timeout=20)
        check("status", process.returncode, 0)
        check("row", out.split()[3], "4")
        fake.close()
    finally:
        sleeper.kill()
        sleeper.wait()


@test
def count_ctrl_c():
    fake = Fake(counting([site(":f", 0)], [(4, 0)]))
    process = start(fake, ["count", ":f", "-p", str(ME)])
    process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    check("status", process.returncode, 0)
    check("row", out.split()[3], "4")
    check("detached", fake.called("Detach"), [{"link": "7"}])
    fake.close()


@test
def daemon_ends_meanwhile():
    def gone(params, conn):
        conn.shutdown(2)
        return {"missed": "0"}

    run(counting([site(":f", 0)], [(4, 0)], GetMissed=gone), ["count", ":f", "-p", str(ME), "-d", "20ms", "-q"], status=1,
        out="", err="bpfctl: the daemon closed the connection; its log says why (journalctl -u uprobed)\n")


@test
def output_file():
    with tempfile.TemporaryDirectory() as d:
        name = os.path.join(d, "out")
        run(counting([site(":f", 0)], [(4, 0)]), ["count", ":f", "-p", str(ME), "-d", "20ms", "-q", "-o", name, "-j"], out="")
        check("count", json.load(open(name))["counts"][0]["count"], 4)
    run(counting([site(":f", 0)], [(4, 0)]), ["count", ":f", "-p", str(ME), "-o", "/nowhere/x"], status=1,
        err="bpfctl: /nowhere/x: No such file or directory\n")
    run(counting([site(":f", 0)], [(4, 0)]), ["count", ":f", "-p", str(ME), "-d", "20ms", "-q", "-o", "/dev/full"], status=1,
        err="bpfctl: writing /dev/full: No space left on device\n")


# --- latency ---------------------------------------------------------------

def hist_index(ns):
    if ns < 16:
        return ns
    power = ns.bit_length() - 1
    return (power - 3) * 16 + ((ns >> (power - 4)) & 15)


def timing(samples, sites=None, events=(0, 0), ours=None, **kw):
    """Replies as if SAMPLES ({ns: count} for each place) had been timed, spread over 2 CPUs. OURS: what an empty
    function takes, by which bpfctl finds its own share."""
    sites = sites or [site(":setCommand", 0)]
    both = [dict(s, probe=p) for s in sites for p in ("uprobe", "uretprobe")]

    calibrating = []

    def attach(params, conn):
        if params["specs"] != [":bpfctl_empty_function"]:
            return replies["Attach of others"]
        if not ours:
            return Error("failed", 1, "cannot")
        calibrating.append(True)
        return dict(replies["Attach of others"], stops=[],
                    sites=[dict(s, pid=params["target"]["pids"][0]) for s in both])

    def dump(params, conn):
        if params["map"] == "22":  # extremes
            return {"map": {}, "elements": [
                {"key": key(i), "key_json": str(i),
                 "value": hexed(max(s), 2**64 - 1 - min(s)) if s else hexed(0, 0), "value_json": "{}"}
                for i, s in enumerate(samples)]}
        return {"map": {}, "elements": [percpu(i, n) for i, n in enumerate(events)]}

    def lookup(params, conn):
        s = {ours: 5000} if calibrating else samples[int(params["key"])]
        cpus = []
        for cpu in range(2):
            words = [0] * (1 + 592)
            for ns, n in s.items():
                part = n // 2 if cpu else n - n // 2
                words[0] += ns * part
                words[1 + hist_index(ns)] += part
            cpus.append({"cpu": cpu, "value": hexed(*words), "value_json": "{}"})
        return {"map": {}, "element": {"key": key(0), "key_json": "0", "values": cpus}}

    replies = one_shot("latency", ["latency_entry", "latency_exit"], ["sums", "extremes", "events"], both, dump=dump,
                       lookup=lookup, **kw)
    replies["Attach of others"], replies["Attach"] = replies["Attach"], attach
    return replies


SAMPLES = {300: 602, 880: 194155, 1100: 100938, 2100: 9973, 5000: 352, 9000: 1}


@test
def latency_utf8():
    _, _, fake = run(timing([SAMPLES]), ["latency", ":setCommand", "-p", str(ME), "--for", "30ms"],
                     err=f"redis-server {ME}: 1 function, stood still 4.1 ms. Ctrl-C ends it.\n", out="""
:setCommand   306,021 calls   ~/s
  256 ns .. 512 ns        602  ▏
  512 ns .. 1 µs      194,155  ████████████████████████████████████████
    1 µs .. 2 µs      100,938  ████████████████████▊
    2 µs .. 4 µs        9,973  ██
    4 µs .. 8 µs          352  ▏
    8 µs .. 16 µs           1  ▏
p50 880 ns   p90 1.1 µs   p99 2.1 µs   p99.9 4.9 µs   max 9 µs   (within 6 %)
missed 0
""".replace("p99.9 4.9 µs", "p99.9 5 µs"))
    check("both in one stop", fake.called("Attach")[1]["programs"],
          [{"program": "11", "probe": "uprobe"}, {"program": "12", "probe": "uretprobe"}])


@test
def latency_says_what_is_its_own():
    out, _, _ = run(timing([{400: 3}], ours=29), ["latency", ":setCommand", "-p", str(ME), "--for", "30ms", "-q"])
    check("words", out.splitlines()[-2].split("   ")[-1], "(within 6 %; 29 ns of each call is ours)")


@test
def latency_ascii():
    run(timing([SAMPLES]), ["latency", ":setCommand", "-p", str(ME), "--for", "30ms", "-q"], utf8=False, out="""
:setCommand   306,021 calls   ~/s
  256 ns .. 512 ns        602 |@                                       |
  512 ns .. 1 us      194,155 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
    1 us .. 2 us      100,938 |@@@@@@@@@@@@@@@@@@@@@                   |
    2 us .. 4 us        9,973 |@@                                      |
    4 us .. 8 us          352 |@                                       |
    8 us .. 16 us           1 |@                                       |
p50 880 ns   p90 1.1 us   p99 2.1 us   p99.9 5 us   max 9 us   (within 6 %)
missed 0
""")


@test
def latency_order_and_silence():
    sites = [site(":a", 0), site(":b", 1), site(":c", 2)]
    out, _, _ = run(timing([{100: 1}, {200: 5}, {}], sites), ["latency", ":?", "-p", str(ME), "-d", "20ms", "-q"])
    check("order", re.findall(r"^:\w", out, re.M), [":b", ":a"])
    check("footer", out.splitlines()[-1], "1 never called. missed 0")
    run(timing([{}]), ["latency", ":f", "-p", str(ME), "-d", "20ms", "-q"],
        out=":setCommand was not called in 20 ms.\nmissed 0\n")


@test
def latency_missed_and_unpaired():
    _, err, _ = run(timing([{100: 1}], events=(2, 5), missed="1"), ["latency", ":f", "-p", str(ME), "-d", "20ms"])
    check("unpaired", err.splitlines()[1], "3 calls had begun before the probes were in: not timed.")
    out, _, _ = run(timing([{100: 1}], events=(2, 5), missed="1"), ["latency", ":f", "-p", str(ME), "-d", "20ms", "-q"])
    check("missed", out.splitlines()[-1], "missed 3")


@test
def latency_json():
    out, _, _ = run(timing([SAMPLES]), ["latency", ":setCommand", "-p", str(ME), "--for", "30ms", "-j"])
    doc = json.loads(out)
    check("schema", doc["schema"], "io.uprobed.latency/1")
    one = doc["latencies"][0]
    h = one["histogram"]
    check("who", [one[k] for k in ("pid", "module", "symbol", "probe")], [ME, "", "setCommand", ":setCommand"])
    check("figures", [h[k] for k in ("unit", "count", "sum", "min", "max")],
          ["ns", 306021, sum(k * v for k, v in SAMPLES.items()), 300, 9000])
    check("buckets", sum(b["count"] for b in h["buckets"]), 306021)
    for b in h["buckets"]:
        inside = [ns for ns in SAMPLES if b["ge"] <= ns < b["lt"]]
        check("bucket", b["count"], sum(SAMPLES[ns] for ns in inside))
        if (b["lt"] - b["ge"]) * 16 > b["ge"]:
            raise Failure("16 buckets a power of two, but %r" % b)
    for name, exact in (("p50", 880), ("p90", 1100), ("p99", 2100), ("p99_9", 5000)):
        if abs(h[name] - exact) > exact * 0.06:
            raise Failure(f"{name} is {h[name]}, want {exact}")


# --- symbols ---------------------------------------------------------------

def symbol(name, size, entry="jump", exit="ret", **kw):
    return dict({"pid": ME, "module": name.split(":")[0], "path": "/x", "symbol": name, "address": "0x4a10", "bytes": size,
                 "displaced": 7, "insns": 2, "rets": 3, "entry": entry, "exit": exit, "entry_reason": "",
                 "exit_reason": "", "note": ""}, **kw)


SYMBOLS = [
    symbol(":getCommand", 5, exit="tail", exit_reason="ends by jumping to getGenericCommand"),
    symbol(":setCommand", 165),
    symbol("libc:memcpy", 481, entry="pun", note="__memmove_avx_unaligned_erms on this machine"),
    symbol("libc:vfork", 34, exit="-", exit_reason="returns twice: entry only"),
]


@test
def symbols_table():
    run({"Symbols": {"symbols": SYMBOLS}}, ["symbols", ":[gs]etCommand", "libc:memcpy", "-p", "5"], out="""\
FUNCTION     BYTES  ENTRY  EXIT  NOTE
:getCommand      5  jump   tail  ends by jumping to getGenericCommand
:setCommand    165  jump   ret
libc:memcpy    481  pun    ret   __memmove_avx_unaligned_erms on this machine
libc:vfork      34  jump   -     returns twice: entry only
4 functions: 4 can be counted and traced, 2 timed.
""")


@test
def symbols_long():
    run({"Symbols": {"symbols": SYMBOLS[1:2]}}, ["symbols", ":setCommand", "-p", "5", "-v"], out="""\
:setCommand   165 bytes at 0x4a10, entry jump (2 instructions, 7 bytes), exit ret (3)
  in /x
1 function: 1 can be counted and traced, 1 timed.
""")


@test
def symbols_json():
    out, _, _ = run({"Symbols": {"symbols": SYMBOLS}}, ["symbols", "x", "-p", "5", "-j"])
    doc = json.loads(out)
    check("names", [(s["symbol"], s["probe"]) for s in doc["symbols"]][2], ("memcpy", "libc:memcpy"))


# --- errors ----------------------------------------------------------------

@test
def error_near():
    error = Error("symbol_not_found", 5, "redis-server has no function 'setComand'", ["setCommand", "getCommand"])
    line = "bpfctl: redis-server has no function 'setComand'; near: setCommand, getCommand\n"
    run(counting([], [], Attach=error), ["count", ":setComand", "-n", "redis-server"], status=5, out="", err=line)
    out, _, _ = run(counting([], [], Attach=error), ["count", ":setComand", "-n", "redis-server", "--json"], status=5,
                    err=line)
    check("document", json.loads(out), {"error": {"code": "symbol_not_found", "exit": 5,
                                                  "message": "redis-server has no function 'setComand'",
                                                  "near": ["setCommand", "getCommand"]}})


@test
def error_statuses():
    for code, status in (("failed", 1), ("usage", 2), ("target_not_found", 4), ("symbol_not_found", 5), ("rejected", 6),
                         ("not_permitted", 7), ("cannot_probe", 8)):
        run({"Symbols": Error(code, status, "no")}, ["symbols", ":f", "-p", "1"], status=status, err="bpfctl: no\n")


@test
def error_terminal_escapes():
    run({"Symbols": Error("failed", 1, "bad \x1b[31m name")}, ["symbols", ":f", "-p", "1"], status=1,
        err="bpfctl: bad ?[31m name\n")


@test
def rejection():
    log = "".join(f"line {i}\n" for i in range(20))
    error = Error("rejected", 6, "program on_malloc is not safe: R0 may be NULL at leak.bpf.c:32", log=log)
    with tempfile.NamedTemporaryFile(suffix=".bpf.o") as f:
        first = f"bpfctl: {os.path.basename(f.name)}: {error['message']}. Nothing was loaded.\n"
        run({"Load": error}, ["load", f.name], status=6,
            err=first + "".join(f"line {i}\n" for i in range(12, 20)) + "full log: add -v\n")
        run({"Load": error}, ["load", f.name, "-v"], status=6, err=first + log)
        people = "  >  32   *n += 1;\n  try:    if (!n) return 0;\n"
        error = Error("rejected", 6, error["message"], log=people + "\n" + log)
        run({"Load": error}, ["load", f.name], status=6, err=first + people + "full log: add -v\n")
        run({"Load": error}, ["load", f.name, "-v"], status=6, err=first + people + "\n" + log)


@test
def usage_errors():
    for args, message in (
            (["cont", ":f"], "no command 'cont'; see 'bpfctl help'; near: count"),
            (["trace", ":f"], "the command 'trace' is not there yet"),
            (["prog", "lsit"], "no command 'prog lsit'; see 'bpfctl help'; near: list"),
            (["count", ":f"], "which process? -p PID, -n NAME, -x FILE, or -- COMMAND"),
            (["count", "-p", "1"], "too few words: bpfctl count SPEC... TARGET"),
            (["count", ":f", "-p", "1", "--for", "5"],
             "--for: the duration '5' needs a unit: ns, us, ms, s, m or h (5s for seconds)"),
            (["count", ":f", "-p", "1", "--filter", "x"], "the option --filter is not there yet"),
            (["status", "--topp", "1"], "no option --topp; near: --top"),
            (["status", "x"], "'x' is one word too many: bpfctl status "),
            (["detach"], "detach LINK, or detach --all; 'bpfctl link list' shows them")):
        run(counting([], []), args, status=2, out="", err=f"bpfctl: {message}\n")


@test
def no_daemon():
    for args, env in ((["--socket", "/nowhere/s"], {}), ([], {"UPROBED_SOCKET": "/nowhere/s"})):
        full = dict(os.environ, LC_ALL="C.UTF-8")
        full.pop("UPROBED_SOCKET", None)
        full.update(env)
        r = subprocess.run([BPFCTL, *args, "status"], env=full, capture_output=True, text=True)
        check("status", (r.returncode, r.stdout), (3, ""))
        check("stderr", r.stderr, "bpfctl: no daemon answers at /nowhere/s (No such file or directory): "
              "start uprobed --socket /nowhere/s\n")


# --- the private daemon ----------------------------------------------------

FAKE_UPROBED = """#!{python}
import json, os, signal, socket, sys
assert sys.argv[1] == "--private" and sys.argv[2] == "--socket", sys.argv
if {fail}:
    sys.exit("<3>the moon is in the wrong phase")
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[3])
listener.listen(8)
signal.alarm(20)
assert os.getsid(0) == os.getpid()
conn, _ = listener.accept()  # the look whether somebody listens
conn, _ = listener.accept()
while conn.recv(65536):
    conn.sendall(json.dumps({{"parameters": {status}}}).encode() + b"\\0")
os.unlink(sys.argv[3])
"""


SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin")  # one that another user may run


def run_private(fail):
    """bpfctl status where nobody listens, as a user whose runtime folder is ours."""
    with tempfile.TemporaryDirectory() as d:
        bpfctl, uprobed = os.path.join(d, "bpfctl"), os.path.join(d, "uprobed")
        shutil.copy(BPFCTL, bpfctl)
        with open(uprobed, "w") as f:
            f.write(FAKE_UPROBED.format(python=SYSTEM_PYTHON, fail=fail, status=STATUS))
        os.chmod(uprobed, 0o755)
        runtime = os.path.join(d, "runtime")
        os.mkdir(runtime)
        os.chmod(d, 0o755)
        user = 65534 if os.geteuid() == 0 else None
        if user:
            os.chown(runtime, user, -1)
        env = dict(os.environ, LC_ALL="C.UTF-8", XDG_RUNTIME_DIR=runtime)
        env.pop("UPROBED_SOCKET", None)
        return subprocess.run([bpfctl, "status"], env=env, capture_output=True, text=True, user=user, timeout=20)


@test
def private_daemon():
    if not SYSTEM_PYTHON:
        raise Skip("no /usr/bin/python3")
    r = run_private(False)
    check("stderr", r.stderr, "no daemon is running: started a private one\n")
    check("status", (r.returncode, r.stdout.splitlines()[0]),
          (0, "uprobed 0.1.0, pid 1, uid 0, private, since 2026-11-24T14:00:00Z"))
    r = run_private(True)
    check("failure", (r.returncode, r.stdout, r.stderr),
          (3, "", "bpfctl: no daemon is running, and a private one does not start: the moon is in the wrong phase\n"))


# --- -- CMD ----------------------------------------------------------------

def hold(params, conn):
    """What the daemon does: let it exec, stop it."""
    pid = params["pid"]

    def held(params, conn):
        # the go byte comes after "seized"; the exec is done when the image has changed
        before = os.path.realpath(BPFCTL)
        while True:
            try:
                if os.path.realpath(f"/proc/{pid}/exe") != before:
                    break
                with open(f"/proc/{pid}/stat") as f:
                    if f.read().rsplit(")", 1)[1].split()[0] in "ZX":
                        break
            except OSError:
                break
            os.sched_yield()
        return {"state": "held"}

    return Stream([{"state": "seized"}, held])


def run_cmd(cmd, status, sites=None, options=(), **kw):
    replies = counting(sites or [site(":main", 0)], [(4, 0)], Hold=hold)
    replies.update(kw.pop("replies", {}))
    return run(replies, ["count", ":main", *options, "--", *cmd], status=status, **kw)


@test
def cmd_statuses():
    for cmd, status in ((["true"], 0), (["sh", "-c", "exit 42"], 42), (["sh", "-c", "kill -TERM $$"], 128 + 15),
                        (["sh", "-c", "kill -SEGV $$"], 128 + 11)):
        run_cmd(cmd, status)


@test
def cmd_keeps_stdout():
    out, err, _ = run_cmd(["echo", "hello"], 0)
    check("stdout is the command's", out, "hello\n")
    check("ours goes to stderr", err.splitlines()[-1], "missed 0")
    with tempfile.NamedTemporaryFile() as f:
        out, err, _ = run_cmd(["echo", "hello"], 0, options=["-q", "-j", "-o", f.name])
        check("both", (out, err), ("hello\n", ""))
        check("count", json.load(f)["counts"][0]["count"], 4)


@test
def cmd_not_found():
    run_cmd(["no-such-command"], 127, out="", err="bpfctl: no-such-command: command not found\n")
    run_cmd(["/etc/passwd"], 126, out="", err="bpfctl: /etc/passwd: Permission denied\n")
    run_cmd(["/no/such"], 127, out="", err="bpfctl: /no/such: No such file or directory\n")


@test
def cmd_not_started():
    with tempfile.TemporaryDirectory() as d:
        mark = os.path.join(d, "ran")
        error = Error("symbol_not_found", 5, "no function 'fsnyc' in libc", ["fsync"])
        # attached before its first instruction: here, before its exec
        run_cmd(["touch", mark], 125, replies={"Hold": Error("failed", 1, "cannot")}, out="",
                err="bpfctl: cannot. The command was not started.\n")
        check("it did not run", os.path.exists(mark), False)
        run_cmd(["sleep", "100"], 125, replies={"Attach": error}, out="",
                err="bpfctl: no function 'fsnyc' in libc; near: fsync. The command was not started.\n")


@test
def cmd_json_needs_file():
    _, err, _ = run_cmd(["true"], 2, options=["--json"])
    check("words", err, "bpfctl: --json with -- COMMAND needs -o FILE: stdout is the command's\n")


@test
def cmd_limit_then_waits():
    out, _, fake = run_cmd(["sh", "-c", "sleep 0.3; echo done; exit 7"], 7, options=["--for", "20ms"])
    check("it ran to its end", out, "done\n")
    check("detached at the limit", len(fake.called("Detach")), 1)


@test
def cmd_gets_signals():
    fake = Fake(counting([site(":main", 0)], [(4, 0)], Hold=hold))
    process = start(fake, ["count", ":main", "--", "sh", "-c", "trap 'echo got it; exit 9' TERM; echo ready; "
                           "while :; do sleep 0.05; done"])
    check("ready", process.stdout.readline(), "ready\n")
    process.stderr.readline()  # attached
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    check("passed on", (out, process.returncode), ("got it\n", 9))
    fake.close()


@test
def cmd_with_other_commands():
    link = {"links": [{"id": 7, "program": 11, "probe": "uprobe", "specs": [":main"], "nsites": 1}], "sites": [],
            "refused": [], "stops": []}
    out, err, fake = run({"Attach": link, "Hold": hold}, ["attach", "prog", ":main", "--", "sh", "-c", "echo x; exit 3"],
                         status=3, out="x\n", err="  link 7  prog :main  1 place\n")
    check("request", sorted(fake.called("Attach")[0]), ["programs", "specs", "target"])
    out, _, _ = run({"Symbols": {"symbols": SYMBOLS}, "Hold": hold}, ["symbols", ":x", "--", "sleep", "1000"], status=0)
    check("nothing on the command's stdout", out, "")


# --- maps ------------------------------------------------------------------

ELEMENTS = {"map": {"id": 4, "name": "sizes"}, "elements": [
    {"key": "01 00 00 00", "key_json": "1", "value": hexed(5000000000000001), "value_json": "5000000000000001"},
    {"key": "02 00 00 00", "key_json": "2", "value": hexed(2**64 - 1), "value_json": "18446744073709551615"},
    {"key": "03 00 00 00", "key_json": "3", "value": hexed(7), "value_json": '{"a":9007199254740993,"b":["0x01"]}'}]}


@test
def map_dump():
    _, _, fake = run({"MapDump": ELEMENTS}, ["map", "dump", "sizes"], err="3 elements\n", out="""\
key 1  value 5000000000000001
key 2  value 18446744073709551615
key 3  value {"a":9007199254740993,"b":["0x01"]}
""")
    check("map", fake.called("MapDump"), [{"map": "sizes", "count": 10000}])
    parts = [dict(ELEMENTS, elements=ELEMENTS["elements"][:2], next="hex 02 00"), dict(ELEMENTS, elements=ELEMENTS["elements"][2:])]
    _, _, fake = run({"MapDump": lambda params, conn: parts[1 if "after" in params else 0]}, ["map", "dump", "sizes"],
                     err="3 elements\n", out=None)
    check("parts", fake.called("MapDump"), [{"map": "sizes", "count": 10000},
                                            {"map": "sizes", "count": 10000, "after": "hex 02 00"}])
    out, _, _ = run({"MapDump": ELEMENTS}, ["map", "dump", "id", "4", "--json"], err="")
    check("exact", json.loads(out)["elements"], [
        {"key": 1, "value": 5000000000000001}, {"key": 2, "value": 2**64 - 1},
        {"key": 3, "value": {"a": 9007199254740993, "b": ["0x01"]}}])


STACK_NAMES = {
    "stacks": [{"id": 9, "pid": 812, "comm": "sh\x1b[2J", "frames": [0, 1, 2, 77]}, {"id": 3, "pid": 1, "comm": "x", "frames": [1]}],
    "frames": [
        {"pid": 812, "address": "0x1000", "module": "", "path": "/bin/sh", "offset": "0x10", "lines": [
            {"symbol": "inner", "offset": 0, "file": "a.c", "line": 7, "inlined": True},
            {"symbol": "outer", "offset": 18, "file": "b.c", "line": 8, "inlined": False}]},
        {"pid": 812, "address": "0x2000", "module": "libc", "path": "/lib/libc.so.6", "offset": "0x20", "lines": []},
        {"pid": 812, "address": "0x3000", "module": "", "path": "", "lines": []}]}


@test
def map_dump_of_stacks():
    dump = {"map": {"id": 4, "name": "stacks", "type": "stack_trace"}, "elements": [
        {"key": "09 00 00 00", "key_json": "9", "value": "", "value_json": '["0x1000","0x2000","0x3000"]'}]}
    _, _, fake = run({"MapDump": dump, "StackNames": STACK_NAMES}, ["map", "dump", "stacks", "-q"], err="", out="""\
key 9  sh?[2J 812
                      inner a.c:7 (inlined)
  0x1000              outer+0x12 b.c:8
  0x2000              libc+0x20
  0x3000              0x3000
""")
    check("map", fake.called("StackNames"), [{"map": "4"}])
    out, _, _ = run({"MapDump": dump, "StackNames": STACK_NAMES}, ["map", "dump", "stacks", "-j"])
    element = json.loads(out)["elements"][0]
    check("value", (element["key"], element["value"], element["pid"]), (9, ["0x1000", "0x2000", "0x3000"], 812))
    check("frames", [(f["symbol"], f["inlined"], f["line"]) for f in element["frames"]],
          [("inner", True, 7), ("outer", False, 8), ("", False, 0), ("", False, 0)])


def stacks_key(place, stack):
    return " ".join("%02x" % b for b in place.to_bytes(4, "little") + (stack & 0xffffffff).to_bytes(4, "little"))


def collecting(places=(":outer", ":other"), comm="redis-server", **kw):
    counts = [{"key": stacks_key(place, stack), "values": [{"cpu": 0, "value": hexed(n), "value_json": str(n)}]}
              for place, stack, n in ((0, 9, 12), (0, -1, 30), (1, 1 << 30 | 3, 2000))]

    def dump(params, conn):
        return {"map": {}, "elements": counts if params["map"] == "22" else []}
    sites = [site(place, i, comm=comm) for i, place in enumerate(places)]
    return one_shot("stacks", ["stacks_hit"], ["stacks", "counts", "lost", "more"], sites, dump=dump, StackNames=STACK_NAMES,
                    **kw)


@test
def stacks_of_functions():
    args = ["stacks", ":o*", "-p", str(ME), "--for", "30ms", "-q"]
    run(collecting(), args, err="", out="""\
    CALLS  FUNCTION, AND WHO CALLED IT
    2,000  :other
       30  :outer
             (no room for this stack)
       12  :outer
             ← libc+0x20
             ← 0x3000
missed 0
""")
    run(collecting(), args + ["--folded"], err="", out="""\
redis-server;libc+0x20 2000
redis-server;[unknown];:outer 30
redis-server;0x3000;libc+0x20;outer;inner 12
""")
    out, _, fake = run(collecting(), args + ["--json"], err="")
    doc = json.loads(out)
    check("counts", [(s["probe"], s["count"], len(s["frames"])) for s in doc["stacks"]],
          [(":other", 2000, 1), (":outer", 30, 0), (":outer", 12, 4)])
    check("maps", [r["map"] for r in fake.called("StackNames")], ["21", "24"])
    check("schema", (doc["schema"], doc["lost"], doc["missed"]), ("io.uprobed.stacks/1", 0, 0))


@test
def stacks_of_places_in_functions():
    """What is no entry is in the function that its stack begins with."""
    args = ["stacks", ":o*", "-p", str(ME), "--for", "30ms", "-q"]
    for place in (":outer+0x12", ":0x4a10", "usdt::shop:sold", "libc:outer+18"):
        run(collecting([place, "C::operator+"]), args, err="", out="""\
    CALLS  FUNCTION, AND WHO CALLED IT
    2,000  C::operator+
       30  %s
             (no room for this stack)
       12  %s
             ← inner a.c:7 (inlined)
             ← outer b.c:8
             ← libc+0x20
             ← 0x3000
missed 0
""" % (place, place))
    run(collecting([":operator new", ":other"], comm="a;b c"), args + ["--folded"], err="", out="""\
a_b_c;libc+0x20 2000
a_b_c;[unknown];:operator_new 30
a_b_c;0x3000;libc+0x20;outer;inner 12
""")


@test
def map_dump_percpu():
    reply = {"map": {}, "elements": [percpu(1, 3, 2**63)]}
    run({"MapDump": reply}, ["map", "dump", "m", "-q"], err="",
        out="key 1  cpu 0 value 3  cpu 1 value 9223372036854775808  sum 9223372036854775811\n")
    out, _, _ = run({"MapDump": reply}, ["map", "dump", "m", "-j"])
    check("values", json.loads(out)["elements"],
          [{"key": 1, "values": [{"cpu": 0, "value": 3}, {"cpu": 1, "value": 2**63}]}])


@test
def map_lookup():
    reply = {"map": {}, "element": ELEMENTS["elements"][1]}
    _, _, fake = run({"MapLookup": reply}, ["map", "lookup", "sizes", "2"], out="key 2  value 18446744073709551615\n")
    check("request", fake.called("MapLookup"), [{"map": "sizes", "key": "2"}])
    run({"MapLookup": Error("failed", 1, "map sizes has no key 9")}, ["map", "lookup", "sizes", "9"], status=1,
        err="bpfctl: map sizes has no key 9\n")


@test
def map_update():
    for words, want in (
            (["m", "1", "18446744073709551615"], {"map": "m", "key": "1", "value": "18446744073709551615"}),
            (["m", "-1", "-5", "noexist"], {"map": "m", "key": "-1", "value": "-5", "flags": "noexist"}),
            (["m", '{"a":1}', "hex 01 02", "exist"], {"map": "m", "key": '{"a":1}', "value": "hex 01 02", "flags": "exist"}),
            (["id", "4", "key", "1", "value", "5"], {"map": "4", "key": "1", "value": "5"}),
            (["name", "m", "key", "hex", "01", "00", "value", "hex", "05", "00", "any"],
             {"map": "m", "key": "hex 01 00", "value": "hex 05 00", "flags": "any"}),
            (["id", "4", "key", "1", "0", "0x0", "value", "255", "0"],
             {"map": "4", "key": "hex 01 00 00", "value": "hex ff 00"})):
        _, _, fake = run({"MapUpdate": {}}, ["map", "update", *words], out="", err="")
        check("request", fake.called("MapUpdate"), [want])
    run({"MapUpdate": {}}, ["map", "update", "m", "key", "1", "2"], status=2,
        err="bpfctl: the value is missing: MAP key … value …\n")
    run({"MapUpdate": {}}, ["map", "update", "m", "key", "1", "2", "value", "300", "0"], status=2,
        err="bpfctl: '300' is no byte; write one value, or bytes, or 'hex' and bytes\n".replace("~", ""))


@test
def map_delete():
    _, _, fake = run({"MapDelete": {}}, ["map", "delete", "m", "key", "7"], out="", err="")
    check("request", fake.called("MapDelete"), [{"map": "m", "key": "7"}])


# --- the rest --------------------------------------------------------------

@test
def status():
    run({}, ["status"], out="""\
uprobed 0.1.0, pid 1, uid 0, private, since 2026-11-24T14:00:00Z
socket /run/uprobed/socket, 6.1 MiB of memory
1 object, 2 programs, 1 map, 0 links, 3 targets
""")
    out, _, _ = run({}, ["status", "-j"])
    check("json", json.loads(out), dict(STATUS, schema="io.uprobed.status/1"))


@test
def doctor():
    run({"Doctor": {"checks": [{"status": "ok", "name": "ptrace", "text": "you may probe your own processes"},
                               {"status": "no", "name": "other users", "text": "you are uid 1000"}]}}, ["doctor"], out="""\
ok    ptrace            you may probe your own processes
no    other users       you are uid 1000
ok    daemon            private, 0.1.0, 3 targets
2 ok, 1 limit.
""")


@test
def lists():
    programs = {"programs": [{"id": 11, "name": "on_malloc", "section": "uprobe/libc:malloc", "object": 3, "insns": 24,
                              "jited_bytes": 180, "stack_depth": 16, "maps": [4, 5], "links": []}]}
    want = """\
ID  NAME       SECTION             INSNS       CODE  STACK  OBJECT  MAPS  LINKS
11  on_malloc  uprobe/libc:malloc     24  180 bytes     16       3  4, 5
"""
    run({"ListPrograms": programs}, ["prog", "list"], out=want)
    run({"ListPrograms": programs}, ["prog"], out=want)
    run({"ListPrograms": programs}, ["prog", "show", "nope"], status=1,
        err="bpfctl: no program 'nope'; 'bpfctl prog list' shows what there is\n")
    out, _, _ = run({"ListPrograms": programs}, ["prog", "show", "on_malloc", "-j"])
    check("json", json.loads(out)["programs"], programs["programs"])
    run({"ListLinks": {"links": []}}, ["link", "list"], out="", err="no links\n")


@test
def tracelog():
    line = {"ts_ns": "3123456789123", "pid": 5, "tid": 6, "cpu": 1, "comm": "bash", "text": "hi 1"}
    stream = Stream([{"lines": [line], "missed": "0"}, {"lines": [line, line], "missed": "2"}])
    text = "            bash-6       [001]   3123.456789: bpf_trace_printk: hi 1\n"
    run({"TraceLog": stream}, ["prog", "tracelog", "-p", "5"], out=3 * text, err="missed 2\n")
    out, _, _ = run({"TraceLog": stream}, ["prog", "tracelog", "-j"])
    check("json", [json.loads(x) for x in out.splitlines()], [line] * 3)


@test
def load_and_detach():
    reply = {"object": {"id": 3, "name": "leak"}, "programs": [{"id": 11, "name": "on_malloc"}], "maps": [{"name": "sizes"}],
             "links": [{"id": 7, "program": 11, "probe": "uprobe", "specs": ["libc:malloc"], "nsites": 1}],
             "sites": [], "refused": [], "warnings": [],
             "stops": [{"pid": 4125, "comm": "redis-server", "stopped_ns": "600000"}]}
    with tempfile.TemporaryDirectory() as d:
        name = os.path.join(d, "leak.bpf.o")
        with open(name, "wb") as f:
            f.write(b"\x7fELF")
        _, _, fake = run({"Load": reply}, ["load", name, "-n", "redis-server"], err="redis-server 4125 stood still 0.6 ms.\n",
                         out="leak loaded as object 3\n  programs on_malloc\n  maps sizes\n"
                             "  link 7  on_malloc libc:malloc  1 place\n")
        want = {"object": "f0VMRg==", "name": "leak", "target": {"names": ["redis-server"], "follow": True}, "attach": True,
                "ephemeral": False, "log_level": 1}
        check("request", fake.called("Load"), [want])
        usage = Error("usage", 2, "nothing was loaded: which process?")
        only = dict(reply, links=[], stops=[])
        _, _, fake = run({"Load": [usage, only]}, ["load", name], out="leak loaded as object 3\n  programs on_malloc\n  maps sizes\n",
                         err="warning: not attached: no TARGET says in which process ('bpfctl attach')\n")
        check("once with, once without", [p["attach"] for p in fake.called("Load")], [True, False])
        run({"Load": usage}, ["load", name, "-p", "1"], status=2, err="bpfctl: nothing was loaded: which process?\n")
    run({}, ["load", "/no/such.bpf.o"], status=1, err="bpfctl: /no/such.bpf.o: No such file or directory\n")
    _, _, fake = run({"Detach": {"detached": [7], "stops": []}}, ["detach", "--all"], err="detached\n  link 7\n")
    check("request", fake.called("Detach"), [{"all": True}])
    run({"Detach": {"detached": [], "stops": []}}, ["detach", "--all"], err="no links\n")


@test
def call():
    _, _, fake = run({"GetMissed": {"missed": "5"}}, ["call", "GetMissed", '{"links":[1]}', "-j"], out='{"missed":"5"}\n')
    check("request", fake.called("GetMissed"), [{"links": [1]}])
    run({"TraceLog": Stream([{"a": 1}, {"a": 2}])}, ["call", "io.uprobed.TraceLog", "--more"], out='{"a":1}\n{"a":2}\n')
    run({}, ["call", "Nope"], status=2, err="bpfctl: the daemon has no method 'Nope': is it older than bpfctl?\n")
    run({}, ["call", "GetStatus", "["], status=2, err="bpfctl: the parameters are no JSON object: [\n")


@test
def help_and_version():
    out, _, _ = run({}, ["--version"])
    if not re.fullmatch(r"bpfctl \d+\.\d+\.\d+\n", out):
        raise Failure(out)
    out, _, _ = run({}, ["help"], err="")
    for word in ("count", "latency", "stacks", "map update", "prog tracelog"):
        if f"  {word} " not in out:
            raise Failure(f"help lacks {word}")
    for args in (["help", "count"], ["count", "--help"], ["help", "map", "update"], ["map", "update", "-h"]):
        out, _, _ = run({}, args, err="")
        check("usage", out.startswith("usage: bpfctl "), True)
    out, err, _ = run({}, [], status=2, out="")
    check("no words", err.startswith("bpfctl: run eBPF programs"), True)


def main():
    failed = 0
    print(f"1..{len(TESTS)}")
    for i, fn in enumerate(TESTS, 1):
        try:
            fn()
            print(f"ok {i} - {fn.__name__}", flush=True)
        except Skip as e:
            print(f"ok {i} - {fn.__name__} # SKIP {e}", flush=True)
        except (Failure, AssertionError, ValueError, KeyError, IndexError, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"not ok {i} - {fn.__name__}")
            print("\n".join("# " + line for line in str(e).splitlines()), flush=True)
    return failed > 0


sys.exit(main())
