# SPDX-License-Identifier: Apache-2.0
"""The network namespaces of the tests are gone whatever ends the test."""
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from grid import Failed, wait_for
from netns import Net

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def namespaces():
    found = set()
    for p in pathlib.Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(os.stat(p).st_ino)
        except OSError:  # it has just ended
            pass
    return found


def reaches(net, place, other):
    with net.inside(other):
        server = socket.create_server((net.address(other), 0))
    with server, net.inside(place):
        try:
            socket.create_connection(server.getsockname(), timeout=1).close()
            return True
        except OSError:
            return False


def inode(net, name):
    return os.stat(net.path(name)).st_ino


def test_star():
    with pytest.raises(Failed), Net(rate="1gbit") as net:
        net.add("pc-1")
        made = {inode(net, "master"), inode(net, "pc-1")}
        assert len(made) == 2 and made <= namespaces()
        assert reaches(net, "pc-1", "master") and net.sent_bytes("pc-1") > 0
        net.cut("pc-1")
        assert not reaches(net, "pc-1", "master")
        net.join("pc-1")
        assert reaches(net, "master", "pc-1")
        raise Failed("as a test may")
    assert not made & namespaces()


def test_killed():
    code = ("import os, time; from netns import Net\n"
            "with Net() as net:\n"
            "    net.add('pc-1')\n"
            "    print(*(os.stat(net.path(n)).st_ino for n in net.holders), flush=True)\n"
            "    time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          env=dict(os.environ, PYTHONPATH=os.path.dirname(__file__))) as child:
        made = set(map(int, child.stdout.readline().split()))
        assert len(made) == 2 and made <= namespaces()
        child.send_signal(signal.SIGKILL)
    wait_for("its namespaces to go", lambda: not made & namespaces(), 10)
