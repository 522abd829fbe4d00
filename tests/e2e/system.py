# SPDX-License-Identifier: MIT
"""The daemon as a service: started by its socket, telling systemd that it is
ready, under another user, and with probes that outlive it."""

import json
import os
import socket
import subprocess

from harness import BPFCTL, UPROBED, Sandbox, Untouched, foreign_mappings, need_root, run, total, wait_for
from victims import Victim, bpf

NOBODY = 65534


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def counted_as_nobody(box, victim):
    count = box.ctl_start("count", ":two_returns", "-p", victim.pid, "--json", preexec_fn=as_nobody)
    count.wait_attached()
    assert victim.ask("two_returns 9") == "9"
    assert total(json.loads(count.interrupt())) == 9


def test_started_by_its_socket():
    """The socket is there before the daemon, and stays when it has gone."""
    need_root()
    with Sandbox(daemon=False) as box:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(box.socket)
        listener.listen(16)
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        ready.bind(box.dir + "/notify")
        ready.settimeout(20)

        def activate():
            os.dup2(listener.fileno(), 3, inheritable=True)
        daemon = box.start("/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --state "$1"', UPROBED,
                           box.dir + "/state", pass_fds=[3], preexec_fn=activate,
                           env=dict(os.environ, NOTIFY_SOCKET=box.dir + "/notify"))
        assert "READY=1" in ready.recv(4096).decode()
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            count = box.ctl_start("count", ":two_returns", "-p", v.pid, "--json")
            count.wait_attached()
            assert v.ask("two_returns 7") == "7"
            assert total(json.loads(count.interrupt())) == 7
        daemon.terminate()
        assert daemon.wait(20) == 0
        said = ready.recv(4096).decode()
        while "STOPPING=1" not in said:
            said = ready.recv(4096).decode()
        assert os.path.exists(box.socket)


def test_of_another_user():
    """A daemon without rights serves its own user's processes and no others."""
    need_root()
    with Sandbox(daemon=False) as box:
        os.chmod(box.dir, 0o777)
        box.start(UPROBED, "--socket", box.socket, "--state", box.dir + "/state", preexec_fn=as_nobody,
                  stderr=open(box.dir + "/log", "w"))

        def ctl(*args):
            return subprocess.run([BPFCTL, "--socket", box.socket, *map(str, args)], preexec_fn=as_nobody,
                                  capture_output=True, text=True, timeout=60)
        wait_for(lambda: ctl("status").returncode == 0, "it answers")
        own, others = Victim(box, "e2e_shapes", preexec_fn=as_nobody), Victim(box, "e2e_shapes")
        r = ctl("count", ":two_returns", "-p", others.pid, "--for", "1s")
        assert r.returncode == 7 and "belongs to user root" in r.stderr, (r.returncode, r.stderr)
        assert not foreign_mappings(others.pid)
        with Untouched(own.pid):
            counted_as_nobody(box, own)


def test_users_share_the_system_daemon():
    """Root's daemon attaches to a process for its owner, with the owner's rights."""
    need_root()
    with Sandbox() as box:
        os.chmod(box.dir, 0o755)
        os.chmod(box.socket, 0o666)
        v = Victim(box, "e2e_shapes", preexec_fn=as_nobody)
        with Untouched(v.pid):
            counted_as_nobody(box, v)


def test_probes_outlive_a_daemon_that_keeps_them():
    """With --keep the probes go on counting when it stops; the next daemon takes
    them away."""
    need_root()
    with Sandbox(daemon=False) as box:
        daemon = box.start_daemon("--keep")
        v = Victim(box, "e2e_shapes")
        with Untouched(v.pid):
            box.ctl("load", bpf("calls"))
            box.ctl("attach", "on_entry", ":two_returns", "-p", v.pid)
            daemon.terminate()
            assert daemon.wait(20) == 0, box.daemon_log()
            assert foreign_mappings(v.pid)
            assert v.ask("two_returns 9") == "9"
            box.start_daemon()
            wait_for(lambda: not foreign_mappings(v.pid), "the next daemon cleans up")
            assert v.ask("two_returns 9") == "9"


if __name__ == "__main__":
    run()
