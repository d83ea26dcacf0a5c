# SPDX-License-Identifier: Apache-2.0
"""The return deadline, and what logind allows at a shutdown: a PC is never held for longer, and
what could not be saved or sent by then costs no more than the time since the last checkpoint."""
import signal
import time

import pytest

from counter import COUNTER, check_ticks, wait_ticks
from grid import Grid, wait_for
from logind import Logind
from traced import traced

NORMAL = ["--priority", "normal"]


def begin(grid):
    """A job that has a checkpoint and has gone on since."""
    job = grid.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c", COUNTER)
    grid.wait_state(job, "running")
    wait_ticks(grid, job)
    checkpoint(grid, job)
    return job


def checkpoint(grid, job):
    before = grid.parts(job)[0]["layers"]
    grid.yado("checkpoint", job)
    wait_for("the checkpoint", lambda: grid.parts(job)[0]["layers"] > before, 20)
    wait_ticks(grid, job)


def folder(grid, pc, job):
    return next((grid.dir / pc / "vm").glob(f"{job}.0.*"))


@pytest.mark.parametrize("size, stays", [("4G", True), ("0", False)])
def test_what_the_master_cannot_take_by_the_deadline(size, stays):
    """It stays on the PC as far as its owner lets it, else the checkpoint before counts."""
    with Grid(pcs=1, memory="300M", agent_args=["--return-deadline", "2s", "--keep-unsent", size,
                                                *NORMAL]) as g:
        job = begin(g)
        vm = folder(g, "pc-1", job)

        def given_up():
            return "not sent within the return deadline" in (vm / "supervisor.log").read_text()
        g.master.kill(signal.SIGSTOP, wait=False)
        g.owner("pc-1", "leave")
        wait_for("the layer", lambda: (vm / "saved.json").exists(), 20)
        assert not g.pids("qemu-system"), "the memory is the owner's again"
        if stays:
            time.sleep(3)  # what is tested: beyond the deadline
        else:
            wait_for("the layer to be given up", given_up, 10)
        assert (vm / "saved.json").exists() == bool(list(vm.glob("*.layer"))) == stays
        assert given_up() != stays
        g.master.kill(signal.SIGCONT, wait=False)
        g.wait_state(job, "suspended")
        assert g.parts(job)[0]["layers"] == (2 if stays else 1)
        g.owner("pc-1", "auto")
        g.wait_state(job, "running")
        wait_ticks(g, job)
        check_ticks(g, job)


def end_of_delay(logind):
    """The system shuts down; how long the agent made it wait."""
    begin_s = time.monotonic()
    logind.announce("PrepareForShutdown", True)
    wait_for("the delay to be let go", lambda: not logind.inhibitors(), 30)
    return time.monotonic() - begin_s


def test_logind_gives_five_seconds():
    """The last layer is complete, or the one before counts."""
    args = ["--owner-sources", "logind", "--idle-grace", "1s", "--return-deadline", "60s", *NORMAL]
    with Logind(patience_s=5) as logind, Grid(pcs=1, memory="300M", agent_args=args) as g:
        job = begin(g)
        vm = folder(g, "pc-1", job)
        # Complete: the master is away, the PC is switched off as soon as nobody delays it.
        g.master.kill(signal.SIGSTOP, wait=False)
        assert end_of_delay(logind) < 5
        assert (vm / "saved.json").exists()
        g.cut_power("pc-1")
        g.master.kill(signal.SIGCONT, wait=False)
        g.agents["pc-1"].start()
        wait_for("the move", lambda: g.moves(job), 60)
        assert g.moves(job)[0]["reason"] == "shutdown"
        assert g.parts(job)[0]["layers"] == 2
        wait_ticks(g, job)
        # Not complete: nothing makes QEMU give its guest's state in time.
        checkpoint(g, job)
        vm = folder(g, "pc-1", job)
        with traced(*g.pids("qemu-system")):
            assert 4 < end_of_delay(logind) < 5.5
        assert g.agents["pc-1"].proc.wait(30) == 0
        g.wait_state(job, "suspended")
        assert g.parts(job)[0]["layers"] == 3
        g.agents["pc-1"].start()
        g.wait_state(job, "running")
        wait_ticks(g, job)
        check_ticks(g, job)
