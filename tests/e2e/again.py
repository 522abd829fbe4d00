#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""again.py SOCKET PID FUNCTION N: attaches and detaches N times over one
connection, as fast as the daemon answers. Also shows that the protocol can be
spoken by twenty lines of anything."""

import json
import socket
import sys


def main():
    path, pid, function, n = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    rest = b""

    def call(method, **parameters):
        nonlocal rest
        s.sendall(json.dumps({"method": "io.uprobed." + method, "parameters": parameters}).encode() + b"\0")
        while b"\0" not in rest:
            data = s.recv(65536)
            if not data:
                sys.exit("the daemon closed the connection")
            rest += data
        message, rest = rest.split(b"\0", 1)
        reply = json.loads(message)
        if "error" in reply:
            sys.exit("%s: %s" % (method, reply))
        return reply["parameters"]

    for _ in range(n):
        r = call("Attach", programs=[{"program": "on_entry", "probe": "uprobe"}], specs=[":" + function],
                 target={"pids": [pid]})
        for link in r["links"]:
            call("Detach", link=str(link["id"]))


main()
