#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""nginx with its workers: every worker is probed, counts agree with the number
of requests, the served bytes are right."""

import gzip
import hashlib
import http.client
import json
import os
import socket
import subprocess
import threading

from harness import Sandbox, Untouched, need, need_root, run, total, wait_for

CONFIG = """
worker_processes 3;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {dir}/access.log;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
    uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    gzip on; gzip_types *;
    server {{ listen unix:{dir}/http; root {dir}/www; }}
}}
"""


class Nginx:
    def __init__(self, box):
        need_root()
        nginx = need("nginx")
        need("curl")
        self.dir = box.dir
        os.chmod(box.dir, 0o755)
        os.mkdir(box.dir + "/www")
        self.body = os.urandom(200000)
        with open(box.dir + "/www/file", "wb") as f:
            f.write(self.body)
        self.text = "".join("line %d\n" % i for i in range(3000)).encode()
        with open(box.dir + "/www/text", "wb") as f:
            f.write(self.text)
        with open(box.dir + "/nginx.conf", "w") as f:
            f.write(CONFIG.format(dir=box.dir))
        self.p = box.start(nginx, "-c", box.dir + "/nginx.conf")
        wait_for(lambda: len(self.workers()) == 3 and self.serves(), "nginx serves")

    def workers(self):
        try:
            with open("/proc/%d/task/%d/children" % (self.p.pid, self.p.pid)) as f:
                return list(map(int, f.read().split()))
        except OSError:
            return []

    def serves(self):
        r = subprocess.run(["curl", "-s", "--unix-socket", self.dir + "/http", "http://x/file"], capture_output=True)
        return r.returncode == 0 and r.stdout == self.body

    def requests(self, n):
        """N requests over several connections; every body is checked."""
        urls = " ".join("http://x/file?%d" % i for i in range(n // 4))
        ps = [subprocess.Popen(["curl", "-s", "--unix-socket", self.dir + "/http"] + urls.split(),
                               stdout=subprocess.PIPE) for _ in range(4)]
        want = hashlib.sha256(self.body * (n // 4)).hexdigest()
        for p in ps:
            out, _ = p.communicate(timeout=60)
            assert p.returncode == 0 and hashlib.sha256(out).hexdigest() == want, "a body was spoilt"


    def load(self, n, connections):
        """N requests over each of so many connections that are kept: all of a file, a part of it, and one that is
        compressed, in turn; every body is checked."""
        trouble = []

        def client():
            try:
                c = UnixHTTP(self.dir + "/http")
                for i in range(n):
                    path, headers, want = [("/file", {}, self.body), ("/file", {"Range": "bytes=%d-" % i}, self.body[i:]),
                                           ("/text", {"Accept-Encoding": "gzip"}, self.text)][i % 3]
                    c.request("GET", path, headers=headers)
                    r = c.getresponse()
                    got = r.read()
                    if "Accept-Encoding" in headers:
                        assert r.headers["Content-Encoding"] == "gzip", r.headers
                        got = gzip.decompress(got)
                    assert r.status == (206 if "Range" in headers else 200) and got == want, (path, headers, r.status)
                c.close()
            except Exception as e:
                trouble.append(repr(e))
        ts = [threading.Thread(target=client) for _ in range(connections)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()
        assert not trouble, trouble


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("x", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def test_all_workers_are_counted():
    with Sandbox() as box:
        n = Nginx(box)
        workers = n.workers()
        count = box.ctl_start("count", ":ngx_http_process_request", "libc:writev", "-n", "nginx", "--json")
        count.wait_attached()
        n.requests(400)
        doc = json.loads(count.interrupt())
        assert total(doc, "ngx_http_process_request") == 400, doc["counts"]
        assert doc["missed"] == 0
        for pid in workers + [n.p.pid]:
            with Untouched(pid):
                pass
        assert n.workers() == workers, "a worker died"
        assert n.serves()


def test_whole_server_under_load():
    with Sandbox() as box:
        n = Nginx(box)
        workers = n.workers()
        count = box.ctl_start("count", ":ngx_*", "-n", "nginx", "--json")
        count.wait_attached()
        n.requests(200)
        doc = json.loads(count.interrupt())
        assert total(doc, "ngx_http_process_request") == 200
        for pid in workers:
            with Untouched(pid):
                pass
        assert n.workers() == workers, "a worker died"
        n.requests(40)


if __name__ == "__main__":
    run()
