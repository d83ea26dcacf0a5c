# SPDX-License-Identifier: Apache-2.0
"""The cable of a PC is pulled for less and for more than a lease, with real links (netns.py): a
short cut changes nothing, a long one costs what ran since the last checkpoint, and of a part there
is never a second copy that counts."""
import os

import pytest

from counter import COUNTER, check_ticks, wait_ticks
from grid import Grid, wait_for
from netns import Net

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="not root here")

LEASE = ["--lease", "8s"]


def supervisor_says(grid, pc):
    return "".join(p.read_text() for p in (grid.dir / pc / "vm").glob("*/supervisor.log"))


def events(grid, job):
    return [e["text"] for e in grid.json("events")["events"] if e.get("job") == job]


def test_a_cut_that_is_shorter_than_a_lease():
    with Net() as net, Grid(pcs=2, memory="300M", master_args=["--lease", "60s"], net=net) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        part = g.parts(job)[0]
        g.net.cut(part["pc"])
        wait_for("the agent to notice", lambda: "no answer from the master" in
                 g.agents[part["pc"]].text(), 40)
        g.net.join(part["pc"])
        wait_ticks(g, job)
        check_ticks(g, job)
        now = g.parts(job)[0]
        assert (now["epoch"], now["pc"]) == (part["epoch"], part["pc"]) and not g.moves(job)
        assert "paused" not in supervisor_says(g, part["pc"]), "it ran on meanwhile"


def test_a_cut_that_is_longer_than_a_lease():
    with Net() as net, Grid(pcs=2, memory="300M", master_args=LEASE, net=net) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: g.parts(job)[0]["layers"] == 1, 20)
        was = g.parts(job)[0]["pc"]
        g.net.cut(was)
        wait_for("another PC", lambda: g.parts(job)[0]["pc"] not in ("", was), 60)
        assert supervisor_says(g, was).rstrip().endswith("paused"), "its guest stood still before"
        g.wait_elsewhere(job, was)
        wait_ticks(g, job)
        g.net.join(was)
        wait_for("the old guest to be gone", lambda: not list((g.dir / was / "vm").iterdir()), 40)
        wait_ticks(g, job)
        check_ticks(g, job)
        assert [m["reason"] for m in g.moves(job)] == ["died"]
        assert [t for t in events(g, job) if "went silent" in t]


# It ends by itself while its PC is cut off, and draws a number of its own. Its output is with the
# master by then: a guest whose output is not has not finished.
SHORT = "id=$(head -c 8 /dev/urandom | od -An -tx8); echo $id; sleep 2; echo $id > $YADO_OUT/id"
LONGER = ["--lease", "16s"]  # a guest on a busy machine has the time to finish


def finish_unheard(grid, job):
    """The PC of the job is cut off, and its guest finishes; the PC."""
    grid.wait_state(job, "running")
    wait_for("its number", lambda: grid.log(job))
    pc = grid.parts(job)[0]["pc"]
    grid.net.cut(pc)
    vm = grid.dir / pc / "vm"
    wait_for("the result", lambda: list(vm.glob(f"{job}.0.*/saved.json")), 20)
    wait_for("the lapse", lambda: [e for e in grid.json("events")["events"]
                                   if f"no word from {pc}" in e["text"]], 30)
    return pc


def one_run(grid, job, folder):
    grid.wait_state(job, "done", timeout=60)
    grid.yado("results", job, folder)
    return (folder / "id").read_text() == grid.log(job)


def test_a_result_that_comes_after_the_lease_counts(tmp_path):
    """Nobody else had a place for the part."""
    with Net() as net, Grid(pcs=1, memory="300M", master_args=LONGER, net=net) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", SHORT)
        pc = finish_unheard(g, job)
        epoch = g.parts(job)[0]["epoch"]
        g.net.join(pc)
        assert one_run(g, job, tmp_path / "r")
        assert g.parts(job)[0]["epoch"] == epoch


def test_a_result_of_an_old_epoch_does_not_count(tmp_path):
    """The part runs elsewhere by then: one run, one result."""
    with Net() as net, Grid(pcs=2, memory="300M", master_args=LONGER, net=net) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", SHORT)
        pc = finish_unheard(g, job)
        wait_for("another PC", lambda: g.parts(job)[0]["pc"] not in ("", pc), 60)
        g.net.join(pc)
        wait_for("the old result to be gone", lambda: not list((g.dir / pc / "vm").iterdir()), 40)
        assert one_run(g, job, tmp_path / "r")
