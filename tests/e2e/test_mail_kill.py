# SPDX-License-Identifier: Apache-2.0
"""The master dies at each sync of a commit of mail, and of its files' cleaning, before it and behind
it; PCs and guests are played by the test."""
import copy
import itertools
import random

import pytest
import requests

from api import ApiGrid
from grid import Failed, wait_for
from test_kill import KillGrid
from test_mail_master import MIB, World

STEPS = 12
FILE_MB = 64  # MAIL_LOG_FILE_BYTES


class KillApiGrid(KillGrid, ApiGrid):
    """`at_start`: which sync of the master's next life is its last, and whether that happens."""
    at_start = (0, False)

    def daemon_env(self, name):
        env = super().daemon_env(name)
        self.arm(*self.at_start, at=name)
        return env

    def log_files(self):
        return sorted(f.name for f in (self.dir / "master/mail").glob("*.log"))


@pytest.fixture
def g():
    with KillApiGrid() as g:
        yield g


def body(number):
    return b"%d " % number * 10


def test_each_sync_of_a_commit(g):
    w = World(g)
    acked = seen = 0
    for step, happens in itertools.product(range(1, STEPS + 1), (False, True)):
        a, c = w.rank(0), w.rank(2)
        g.arm(step, happens)
        with pytest.raises(requests.RequestException):
            while True:
                acked = max(acked, a.post(acked + 1, (2, body(acked + 1))))
                got = c.get(seen + 1, status=(200, 204))
                assert [m[3] for m in got] == [body(seen + 1 + i) for i in range(len(got))]
                seen += len(got)
        wait_for("the master to die", lambda: not g.master.alive())
        assert g.struck("master")
        g.start_master()
        w.pc.sync()
        # What was acknowledged or read is there, and at most one more, whose answer was lost.
        a, c = w.rank(0), w.rank(2)
        assert acked <= a.post(acked + 1, (2, body(acked + 1))) <= acked + 1
        acked += 1
        assert c.read(1, acked) == [body(1 + i) for i in range(acked)]
        seen = acked


def test_each_sync_of_the_cleaning(g):
    """Four files, mostly of a job that is cancelled; another job's messages lie between."""
    w = World(g)
    noise = copy.copy(w)  # of the same PC
    noise.job = g.submit_api(parts=3)
    w.pc.sync()
    a, c, loud, ear = w.rank(0), w.rank(2), noise.rank(0), noise.rank(1)
    data, count, sent = random.randbytes(MIB), 0, 0
    while sent < 4 * FILE_MB:
        assert loud.post(sent + 1, *[(1, data)] * 6) == sent + 6
        assert len(ear.get(sent + 1, size=8 * MIB)) == 6
        sent += 6
        count = a.post(count + 1, (2, body(count + 1)))
    before = g.log_files()
    assert len(before) >= 4
    g.arm(1)
    g.run("cancel", noise.job)
    wait_for("the master to die", lambda: not g.master.alive())
    deaths, is_ready = {False: 0, True: 0}, True  # of them, when it was ready
    for step, happens in itertools.product(range(1, 100), (False, True)):
        if happens and not is_ready:
            continue  # a start's own syncs are not the subject
        g.at_start, is_ready = (step, happens), True
        try:
            g.start_master()
            g.run("cancel", noise.job)  # once more, if that was lost
        except Failed:
            is_ready = False
        wait_for("it to die, or to be done", lambda: not g.master.alive() or len(g.log_files()) <= 3)
        if g.master.alive():
            break
        deaths[is_ready] += 1
    g.at_start = (0, False)
    g.master.kill()
    g.start_master()
    w.pc.sync()
    print("deaths", deaths)
    assert deaths[True] >= 4 and g.log_files()[0] > before[0]
    a, c = w.rank(0), w.rank(2)
    assert c.read(1, count) == [body(1 + i) for i in range(count)]
    assert a.post(1, *[(2, body(1 + i)) for i in range(count + 1)]) == count + 1
    assert c.read(count + 1, 1) == [body(count + 1)]
