# SPDX-License-Identifier: Apache-2.0
"""Work of the PC itself leaves a guest too little CPU: it moves while it runs. Each PC of this grid
has one core of the machine, so that other tests have the other one."""
import contextlib
import os
import re
import subprocess

import pytest

from grid import Grid, wait_for

BUSY = "i=0; while :; do i=$((i+1)); [ $((i % 20000)) -ne 0 ] || echo tick $i; done"


@contextlib.contextmanager
def on_core(core):
    """What is started meanwhile stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_a_guest_leaves_a_pc_that_has_work_of_its_own():
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")
    with Grid(pcs=0, memory="300M", cpus="1", master_args=["--rebalance", "2s"],
              agent_args=["--priority", "idle"]) as g:
        for i, core in enumerate(cores):
            with on_core(core):
                g.add_pc(f"pc-{i + 1}", builder=True)
        job = g.submit("--memory", "128M", "--", "sh", "-c", BUSY)
        g.wait_state(job, "running")
        was = g.parts(job)[0]["pc"]
        wait_for("ticks", lambda: "tick" in g.log(job))
        with on_core(cores[int(was[-1]) - 1]):
            work = subprocess.Popen(["sh", "-c", "while :; do :; done"])
        try:
            wait_for("the move", lambda: g.moves(job), 60)
        finally:
            work.kill()
            work.wait()
        move = g.moves(job)[0]
        assert (move["reason"], move["from"]) == ("load", was) and move["to"] != was
        assert [e for e in g.json("events")["events"]
                if e.get("job") == job and "leaves it too little CPU" in e["text"]]
        seen = len(g.log(job))
        wait_for("ticks", lambda: len(g.log(job)) > seen)
        ticks = [int(n) for n in re.findall(r"^tick (\d+)$", g.log(job), re.M)]
        assert ticks == [20000 * i for i in range(1, len(ticks) + 1)]
