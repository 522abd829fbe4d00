#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The proof that probes do no harm: every function of a program and of its
libraries is probed, entry and exit at once, while the program does work whose
result can be checked. The result must be what it is without probes, the counts
plausible, and after the detach every byte of text as in its file.

    everything.py [--seconds N] [test…]    each test goes on for N seconds; without, one round
"""

import hashlib
import json
import os
import pwd
import subprocess
import sys
import time

from harness import VICTIMS, Asked, Sandbox, Skip, Untouched, maps, need, need_root, run, total, wait_for
from kinds import go_victim
from nginx import Nginx
from redis import Redis

PYTHON = "/usr/bin/python3"
SECONDS = 0

LIBRARIES = ("libc", "libstdc++", "libgcc_s", "libm")


def mapped(pid):
    return {os.path.basename(m[5].strip()).split(".so")[0] for m in maps(pid) if len(m) > 5 and "x" in m[1]}


def both_sides(names):
    return [side + name + ":*" for name in names for side in ("uprobe:", "uretprobe:")]


def everything(pids, extra):
    """SPECs of all functions, both sides, of the main program and of the libraries that all processes have."""
    return both_sides([""] + [lib for lib in LIBRARIES + extra if all(lib in mapped(pid) for pid in pids)])


def lost_exits(doc):
    """What exceptions, longjmp and the ends of threads may have skipped: entries without an exit. Nothing else may
    be missed."""
    sides = {}
    for c in doc["counts"]:
        side = sides.setdefault((c["pid"], c["module"], c["symbol"]), {})
        kind = "uretprobe" if c["probe"].startswith("uretprobe:") else "uprobe"
        side[kind] = side.get(kind, 0) + c["count"]
    return sum(max(0, s.get("uprobe", 0) - s.get("uretprobe", 0)) for s in sides.values())


class Probed:
    """with Probed(box, pids) as p: …; then p.doc has the counts, and the processes are as before."""

    def __init__(self, box, pids, extra=(), specs=None, unwinds=False, stir=lambda: None):
        self.box, self.pids, self.stir = box, pids, stir
        self.specs = specs or everything(pids, extra)
        self.unwinds = unwinds

    def __enter__(self):
        self.untouched = [Untouched(pid, self.stir) for pid in self.pids]
        for u in self.untouched:
            u.__enter__()
        self.attach()
        if "is stripped" in self.count.err():
            self.specs = [s for s in self.specs if "::" not in s]
            self.attach()
        assert self.count.p.poll() is None, self.count.err()[-2000:] + self.box.daemon_log()
        return self

    def attach(self):
        targets = [word for pid in self.pids for word in ("-p", pid)]
        self.count = self.box.ctl_start("count", *self.specs, *targets, "--json")
        wait_for(lambda: self.count.p.poll() is not None or "stood still" in self.count.err(), "attached", 300)

    def __exit__(self, kind, *exc):
        if kind:
            return
        self.count.p.send_signal(2)
        self.count.p.wait(300)
        assert self.count.p.returncode == 0, self.count.err()[-2000:] + self.box.daemon_log()
        with open(self.count.out_path) as f:
            self.doc = json.load(f)
        print("# missed %s of %d" % (self.doc["missed"], total(self.doc)), flush=True)
        assert int(self.doc["missed"]) <= (lost_exits(self.doc) if self.unwinds else 0), self.doc["missed"]
        assert total(self.doc) > 0
        for u in self.untouched:
            u.__exit__(None)

    def calls(self, symbol, probe="uprobe"):
        return sum(c["count"] for c in self.doc["counts"] if c["symbol"] == symbol and
                   c["probe"].startswith("uretprobe:") == (probe == "uretprobe"))


def rounds():
    """One round, or as many as the time allows."""
    end = time.monotonic() + SECONDS
    while True:
        yield
        if time.monotonic() >= end:
            return


def asked_with_and_without(box, victim, question, check=None, extra=(), unwinds=False):
    plain = victim.ask(question)
    for _ in rounds():
        with Probed(box, [victim.pid], extra, unwinds=unwinds, stir=lambda: victim.ask(question) and None) as p:
            for _ in range(3):
                answer = victim.ask(question)
                assert answer == plain, (answer, plain)
        if check:
            check(p)
        assert victim.ask(question) == plain


def run_plain(box, *argv, **kw):
    return subprocess.run(argv, cwd=box.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=600, **kw)


def run_probed(box, specs, *argv, **kw):
    """Under probes from its first instruction; its output, and the counts."""
    out = os.path.join(box.dir, "counts.json")
    r = subprocess.run([os.environ.get("BPFCTL") or os.path.join(os.path.dirname(VICTIMS), "../cli/bpfctl"),
                        "--socket", box.socket, "count", *specs, "--json", "-q", "-o", out, "--", *argv],
                       cwd=box.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=900, **kw)
    with open(out) as f:
        text = f.read()
    assert text, "no counts: exit %d, %s %s" % (r.returncode, r.stderr[-2000:], box.daemon_log())
    return r, json.loads(text)


def test_redis():
    with Sandbox() as box:
        r = Redis(box)
        want = {"key:%d" % i: hashlib.sha256(b"%d" % i).hexdigest() * 20 for i in range(300)}
        for _ in rounds():
            r.cli("flushall")
            with Probed(box, [r.pid]) as p:
                before = r.calls("set")
                r.benchmark("set,get,incr,lpush,lpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset", 4000)
                commands = "".join("SET %s %s\r\n" % item for item in want.items())
                subprocess.run(["redis-cli", "-s", r.sock, "--pipe"], input=commands, text=True, check=True,
                               capture_output=True)
                got = r.cli("mget", *want).split("\n")
                assert got == list(want.values()), "values were spoilt"
                sets = r.calls("set") - before
            assert sets >= 4300 and p.calls("setCommand") == sets, (p.calls("setCommand"), sets)
            assert r.cli("ping") == "PONG"
            assert r.cli("mget", *want).split("\n") == list(want.values())


def title(pid):
    try:
        with open("/proc/%d/cmdline" % pid) as f:
            return f.read()
    except OSError:
        return ""


class Postgres:
    def __init__(self, box):
        need_root()
        base = "/usr/lib/postgresql"
        versions = sorted(os.listdir(base), key=int) if os.path.isdir(base) else []
        if not versions:
            raise Skip("postgresql is not installed")
        self.bin = os.path.join(base, versions[-1], "bin/")
        self.dir = box.dir + "/pg"
        user = pwd.getpwnam("postgres")
        os.chmod(box.dir, 0o755)
        os.mkdir(self.dir)
        os.chown(self.dir, user.pw_uid, user.pw_gid)
        self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.tool("initdb", "-D", self.dir + "/data", "-A", "trust", "--no-sync")
        self.p = box.start(self.bin + "postgres", "-D", self.dir + "/data", "-k", self.dir, "-c",
                           "listen_addresses=", "-c", "fsync=off", **self.user)
        wait_for(lambda: subprocess.run([self.bin + "pg_isready", "-h", self.dir], capture_output=True,
                                        **self.user).returncode == 0, "postgres answers", 60)
        self.tool("pgbench", "-h", self.dir, "-i", "-q", "-s", "1", "postgres")

    def processes(self):
        """That last: those that serve a client, or vacuum, come and go."""
        with open("/proc/%d/task/%d/children" % (self.p.pid, self.p.pid)) as f:
            children = map(int, f.read().split())
        return [self.p.pid] + [pid for pid in children if any(
            role in title(pid) for role in ("checkpointer", "writer", "launcher"))]

    def tool(self, name, *args):
        r = subprocess.run([self.bin + name, *args], capture_output=True, text=True, cwd=self.dir, timeout=300,
                           **self.user)
        assert r.returncode == 0, name + ": " + r.stdout + r.stderr
        return r.stdout

    def sql(self, text):
        return self.tool("psql", "-h", self.dir, "-At", "-c", text, "postgres").strip()


def test_postgres():
    """The balances add up whatever happened in between."""
    with Sandbox() as box:
        pg = Postgres(box)
        assert len(pg.processes()) > 3, pg.processes()
        for _ in rounds():
            with Probed(box, pg.processes(), specs=both_sides(["", "libc"])) as p:
                pg.tool("pgbench", "-h", pg.dir, "-c", "4", "-j", "2", "-t", "150", "-n", "postgres")
                sums = pg.sql("select (select sum(abalance) from pgbench_accounts), "
                              "(select sum(bbalance) from pgbench_branches), "
                              "(select sum(tbalance) from pgbench_tellers), "
                              "(select sum(delta) from pgbench_history)").split("|")
                assert len(set(sums)) == 1, sums
            # seven statements a transaction, and what psql and pgbench ask beside
            assert 4200 <= p.calls("PortalRun") <= 4230, p.calls("PortalRun")
            assert pg.p.poll() is None
            assert pg.sql("select count(*) from pgbench_accounts") == "100000"
        pg.tool("pg_amcheck", "-h", pg.dir, "--install-missing", "postgres")


LOAD = 150   # requests of each of the connections that are kept


def test_nginx():
    with Sandbox() as box:
        n = Nginx(box)
        workers = n.workers()
        for _ in rounds():
            with Probed(box, workers + [n.p.pid], ("libz", "libpcre2-8", "libcrypto")) as p:
                n.requests(400)
                n.load(LOAD, 8)
            want = 400 + LOAD * 8
            assert p.calls("ngx_http_process_request") == want, (p.calls("ngx_http_process_request"), want)
            # every third answer is compressed
            assert p.calls("deflateInit2_") >= LOAD * 8 // 3, p.calls("deflateInit2_")
            assert n.workers() == workers, "a worker died"
        assert n.serves()


def test_python_modules():
    """The standard library's own tests, from the interpreter's first instruction."""
    need_root()
    modules = ["test_json", "test_struct"]
    if SECONDS:
        modules += ["test_re", "test_pickle", "test_threading", "test_decimal"]
        others = ["test_sqlite3", "test_ctypes", "test_exceptions", "test_gc", "test_asyncio",
                  "test_multiprocessing_fork", "test_subprocess", "test_signal"]
    else:
        others = []
    if not os.path.isdir("/usr/lib/python3.11/test/test_json"):
        raise Skip("libpython3.11-testsuite is not installed")
    with Sandbox() as box:
        command = [PYTHON, "-m", "test", "-q"]
        bad = [m for m in modules if run_plain(box, *command, m).returncode]
        assert not bad, "%s fail without probes" % bad
        left_out = [m for m in others if run_plain(box, *command, m).returncode]
        print("# not here, or they fail without probes: %s" % (" ".join(left_out) or "none"), flush=True)
        good = modules + [m for m in others if m not in left_out]
        r, doc = run_probed(box, both_sides(["", "libc", "libm"]), *command, *good)
        assert r.returncode == 0, (r.returncode, r.stdout[-3000:], r.stderr[-1000:])
        assert total(doc) > 1000000 and int(doc["missed"]) <= lost_exits(doc), (doc["missed"], lost_exits(doc))


PYTHON_SERVER = """
import sys, json, re, threading, pickle, decimal, sqlite3, hashlib, zlib
def work(n):
    h = hashlib.sha256()
    db = sqlite3.connect(":memory:")
    db.execute("create table t(a integer primary key, b text)")
    for i in range(n):
        h.update(json.dumps({"i": i, "s": re.sub("[0-9]", "x", str(i))}).encode())
        h.update(pickle.dumps([i, str(i), {"k": i}]))
        h.update(str(decimal.Decimal(i).sqrt()).encode())
        db.execute("insert into t values(?, ?)", (i, "v%d" % i))
        try:
            raise ValueError(i)
        except ValueError as e:
            h.update(str(e).encode())
    h.update(str(db.execute("select sum(a), max(b) from t").fetchall()).encode())
    h.update(zlib.compress(b"uprobed" * 1000))
    return h.hexdigest()
print("ready", flush=True)
for line in sys.stdin:
    n = int(line)
    out = [None] * 3
    def one(k): out[k] = work(n)
    ts = [threading.Thread(target=one, args=(k,)) for k in range(3)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    print(hashlib.sha256("".join(out).encode()).hexdigest(), flush=True)
"""


def test_python_alive():
    with Sandbox() as box:
        asked_with_and_without(box, Asked(box, PYTHON, "-c", PYTHON_SERVER), 300)


NODE_SERVER = """
const crypto = require('crypto'), zlib = require('zlib'), rl = require('readline').createInterface({input: process.stdin});
function work(n) {
  const h = crypto.createHash('sha256'), m = new Map();
  for (let i = 0; i < n; i++) {
    h.update(JSON.stringify({i, s: String(i).replace(/[0-9]/g, 'x'), a: [i, i * 0.5]}));
    m.set('k' + i, {v: i});
    try { if (i % 3 == 0) throw new Error('e' + i); } catch (e) { h.update(e.message); }
  }
  if (global.gc) gc();
  for (const [k, v] of m) h.update(k + v.v);
  h.update(zlib.deflateSync(Buffer.alloc(10000, 'uprobed')));
  return h.digest('hex');
}
console.log('ready');
rl.on('line', l => zlib.gzip(Buffer.alloc(200000, l), (e, z) => console.log(work(+l) + zlib.gunzipSync(z).length)));
"""


def test_node():
    if not SECONDS:
        raise Skip("150,000 places take too long for every day: --seconds N")
    node = need("node")
    with Sandbox() as box:
        v = Asked(box, node, "--expose-gc", "-e", NODE_SERVER)
        asked_with_and_without(box, v, 3000, extra=("libz", "libuv"))


JAVA_SERVER = """
import java.io.*;
import java.security.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.zip.*;

public class Server {
    static int deep(int n) {
        if (n == 0) throw new IllegalStateException("bottom");
        return deep(n - 1) + 1;
    }
    static long work(int n) throws Exception {
        CRC32 c = new CRC32();
        Map<String, byte[]> m = new HashMap<>();
        MessageDigest d = MessageDigest.getInstance("SHA-256");
        for (int i = 0; i < n; i++) {
            m.put("k" + i, new byte[100 + i % 50]);
            c.update(d.digest(("x" + i).getBytes()));
            if (i % 10 == 0) try { deep(i % 100); } catch (IllegalStateException e) { c.update(e.getStackTrace().length > 0 ? 1 : 0); }
            String s = null;
            if (i % 100 == 0) try { s.length(); } catch (NullPointerException e) { c.update(7); }
        }
        System.gc();
        for (String k : new TreeSet<>(m.keySet())) c.update(m.get(k).length);
        return c.getValue();
    }
    public static void main(String[] a) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        ExecutorService pool = Executors.newFixedThreadPool(3);
        System.out.println("ready");
        for (String l; (l = in.readLine()) != null;) {
            final int n = Integer.parseInt(l);
            List<Future<Long>> fs = new ArrayList<>();
            for (int i = 0; i < 3; i++) { final int k = i; fs.add(pool.submit(() -> work(n + k))); }
            long sum = 0;
            for (Future<Long> f : fs) sum = sum * 31 + f.get();
            System.out.println(sum);
        }
        pool.shutdown();
    }
}
"""


def test_jvm():
    java = need("java")
    with Sandbox() as box:
        with open(box.dir + "/Server.java", "w") as f:
            f.write(JAVA_SERVER)
        v = Asked(box, java, "-Xmx256m", "Server.java")
        extra = ("libjava", "libjli", "libzip") + (("libjvm",) if SECONDS else ())
        asked_with_and_without(box, v, 2000, extra=extra)


def test_openssl_speed():
    openssl = need("openssl")
    with Sandbox() as box:
        need_root()
        specs = both_sides(["libc", "libcrypto", "libssl"])
        for _ in rounds():
            r, doc = run_probed(box, specs, openssl, "speed", "-seconds", "1", "-bytes", "1024", "-evp", "aes-128-gcm")
            assert r.returncode == 0, (r.returncode, r.stdout[-500:], r.stderr[-2000:])
            assert "AES-128-GCM" in r.stdout.upper(), r.stdout
            assert total(doc) > 10000 and doc["missed"] == 0
            r, doc = run_probed(box, specs, openssl, "dgst", "-sha512", sys.executable)
            plain = run_plain(box, openssl, "dgst", "-sha512", sys.executable)
            assert r.stdout == plain.stdout, (r.stdout, plain.stdout, r.stderr[-500:])


def test_openssl_server():
    openssl = need("openssl")
    with Sandbox() as box:
        need_root()
        made = run_plain(box, openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out",
                         "cert.pem", "-days", "2", "-subj", "/CN=localhost")
        assert made.returncode == 0, made.stdout
        body = os.urandom(300000)
        with open(box.dir + "/file", "wb") as f:
            f.write(body)
        text = "".join("%d\n" % i for i in range(20000))
        with open(box.dir + "/text", "w") as f:
            f.write(text)
        server = box.start(openssl, "s_server", "-unix", box.dir + "/tls", "-key", "key.pem", "-cert", "cert.pem",
                           "-WWW", "-quiet")

        def fetch():
            r = subprocess.run([openssl, "s_client", "-unix", box.dir + "/tls", "-quiet", "-ign_eof"],
                               input=b"GET /file HTTP/1.0\r\n\r\n", capture_output=True, timeout=60)
            return r.stdout.endswith(body)
        wait_for(fetch, "s_server serves")
        for _ in rounds():
            with Probed(box, [server.pid], ("libcrypto", "libssl")) as p:
                for _ in range(10):
                    assert fetch(), "what arrived is not what was sent"
            assert p.calls("SSL_new") == p.calls("SSL_new", "uretprobe") == 10, p.calls("SSL_new")
            # and the client, from its first instruction
            r, doc = run_probed(box, both_sides(["libc", "libcrypto", "libssl"]), openssl, "s_client", "-unix",
                                box.dir + "/tls", "-quiet", "-ign_eof", input="GET /text HTTP/1.0\r\n\r\n")
            assert r.stdout.endswith(text), (r.returncode, r.stdout[-300:], r.stderr[-1000:])
            assert total(doc, "SSL_read_ex") + total(doc, "SSL_read") > 0 and doc["missed"] == 0, doc["missed"]
        assert fetch()


def test_go():
    """Goroutines on stacks that grow and move, collected and preempted all the time, while probes come and go too;
    the victim panics unless all its results are right."""
    need("go")
    need_root()
    with Sandbox() as box:
        v = go_victim(box)
        for _ in rounds():
            for _ in range(8):
                with Probed(box, [v.pid], specs=both_sides([""])):
                    v.wait_more(500)
            v.ask("pause")
            with Probed(box, [v.pid], specs=both_sides([""])) as p:
                before = v.count()
                v.ask("go")
                v.wait_more(2000)
                v.ask("pause")
                calls = v.count() - before
            assert p.calls("main.hammered") == p.calls("main.hammered", "uretprobe") == calls, calls
            v.ask("go")
            v.wait_more()


SQLITE = """
pragma journal_mode=wal;
create table t(a integer primary key, b text, c blob);
create index tb on t(b);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)
  insert into t select i, printf('%d-%s', i * 7919 % 20000, hex(i)), zeroblob(i % 100) from n;
begin; delete from t where a % 3 = 0; update t set b = b || 'x' where a % 5 = 0; commit;
vacuum;
pragma integrity_check;
select count(*), sum(a), max(b), sum(length(c)) from t;
select b, count(*) from t group by substr(b, 1, 2) order by 2 desc, 1 limit 5;
"""


def test_sqlite():
    sqlite = need("sqlite3")
    with Sandbox() as box:
        need_root()
        specs = both_sides(["libc", "libm", "libsqlite3"])
        plain = run_plain(box, sqlite, "plain.db", SQLITE)
        assert plain.returncode == 0 and "ok" in plain.stdout, plain.stdout
        for _ in rounds():
            if os.path.exists(box.dir + "/probed.db"):
                os.unlink(box.dir + "/probed.db")
            r, doc = run_probed(box, specs, sqlite, "probed.db", SQLITE)
            assert r.returncode == 0 and r.stdout == plain.stdout, (r.returncode, r.stdout, r.stderr[-2000:])
            assert total(doc, "sqlite3_step") > 0, "sqlite3_step was not seen"


def test_exceptions():
    """A C++ program that throws through many frames, with probes in the unwinder as well."""
    with Sandbox() as box:
        def check(p):
            assert p.calls("__cxa_throw") > 3 * 2000, p.calls("__cxa_throw")
        asked_with_and_without(box, Asked(box, os.path.join(VICTIMS, "e2e_throw")), 2000, check, unwinds=True)


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--seconds":
        SECONDS = float(sys.argv[2])
        del sys.argv[1:3]
    run()
