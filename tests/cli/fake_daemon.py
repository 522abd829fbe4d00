# SPDX-License-Identifier: MIT
"""A daemon of canned replies, for testing what bpfctl prints.

Fake(replies) serves one connection after another on its own socket. `replies`
maps a method's short name to a reply, or to a list of which each call takes the
next (the last one stays). A reply is a dict of parameters, an Error, a Stream of
dicts, or a function of (parameters, connection) that gives one of these.
"""
import json
import os
import socket
import tempfile
import threading


class Error(dict):
    """Error(code, exit, message, near=[], log=None)"""

    def __init__(self, code, exit, message, near=(), log=None):
        super().__init__(code=code, exit=exit, message=message, near=list(near))
        if log is not None:
            self["log"] = log


class Stream(list):
    pass


STATUS = {"version": "0.1.0", "pid": 1, "uid": 0, "started": "2026-11-24T14:00:00Z", "socket": "/run/uprobed/socket",
          "private": True, "rss_bytes": 6396313, "objects": 1, "programs": 2, "maps": 1, "links": 0, "targets": 3,
          "warnings": []}


class Fake:
    def __init__(self, replies):
        self.replies = dict({"GetStatus": STATUS}, **replies)
        self.calls = []  # (method, parameters)
        self.folder = tempfile.mkdtemp(prefix="bpfctl-test-")
        self.path = os.path.join(self.folder, "socket")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.acceptor = threading.Thread(target=self._accept, daemon=True)
        self.acceptor.start()

    def close(self):
        # nobody may be about to accept on a number that is the next fake's by then
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()
        os.unlink(self.path)
        os.rmdir(self.folder)

    def called(self, method):
        return [params for name, params in self.calls if name == method]

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        data = b""
        with conn:
            while True:
                more = conn.recv(65536)
                if not more:
                    return
                data += more
                while b"\0" in data:
                    message, data = data.split(b"\0", 1)
                    try:
                        self._answer(conn, json.loads(message))
                    except OSError:
                        return

    def _answer(self, conn, call):
        method = call["method"].rsplit(".", 1)[1]
        params = call.get("parameters", {})
        self.calls.append((method, params))
        reply = self.replies.get(method)
        if type(reply) is list:
            reply = reply.pop(0) if len(reply) > 1 else reply[0]
        if callable(reply):
            reply = reply(params, conn)
        if reply is None:
            self._send(conn, {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": method}})
        elif isinstance(reply, Error):
            self._send(conn, {"error": "io.uprobed.Failed", "parameters": reply})
        elif isinstance(reply, Stream):
            for i, one in enumerate(reply):
                self._send(conn, {"parameters": one(params, conn) if callable(one) else one,
                                  "continues": i + 1 < len(reply)})
        else:
            self._send(conn, {"parameters": reply})

    @staticmethod
    def _send(conn, obj):
        conn.sendall(json.dumps(obj).encode() + b"\0")
