# SPDX-License-Identifier: Apache-2.0
"""A running guest moves to another PC; a counter inside it is watched from outside."""
import os
import signal
import statistics

from counter import COUNTER, check_ticks, ticks, wait_ticks
from grid import Grid, wait_for


def other(pc):
    return "pc-2" if pc == "pc-1" else "pc-1"


def test_job_runs_and_its_output_and_result_come_back(tmp_path):
    with Grid(pcs=1) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c",
                       "echo hello; echo part $YADO_PART of $YADO_PARTS; echo oops >&2; "
                       "echo result > $YADO_OUT/answer; mkdir $YADO_OUT/d; echo x > $YADO_OUT/d/y")
        g.wait_state(job, "done")
        assert g.log(job, 0, "out") == "hello\npart 0 of 1\n"
        g.yado("results", job, tmp_path / "r")
        assert (tmp_path / "r/answer").read_text() == "result\n"
        assert (tmp_path / "r/d/y").read_text() == "x\n"


def test_counter_over_moves_by_owner_shutdown_and_drain():
    with Grid(pcs=2) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)

        def running_on(*names):
            p = g.parts(job)[0]
            return p["state"] == "running" and p["pc"] in names and p["pc"]

        pc = wait_for("the job to run", lambda: running_on("pc-1", "pc-2"), 90)
        wait_ticks(g, job)
        # The owner comes back.
        g.owner(pc, "leave")
        to = wait_for("the move by the owner", lambda: running_on(other(pc)))
        wait_ticks(g, job, 5)
        g.owner(pc, "auto")
        # The other PC shuts down: the agent hands over and ends.
        g.agents[to].kill(signal.SIGPWR)
        pc = wait_for("the move by the shutdown", lambda: running_on(other(to)))
        wait_ticks(g, job, 5)
        g.agents[to].start()
        wait_for("the PC to be back", lambda: [p for p in g.json("pcs")["pcs"]
                                               if p["name"] == to and p["available"]])
        g.yado("drain", pc)
        wait_for("the move by the drain", lambda: running_on(other(pc)))
        wait_ticks(g, job, 5)
        g.yado("cancel", job)
        g.wait_state(job, "cancelled")
        check_ticks(g, job)
        moves = g.moves(job)
        assert [m["reason"] for m in moves] == ["owner", "shutdown", "drain"]
        assert all(m["total_ms"] > 0 and m["bytes"] > 0 for m in moves)


MOVES = 200 if os.environ.get("YADO_SOAK") else 50


def test_counter_over_fifty_moves_in_a_row():
    """Two PCs whose owners come back in turn; no tick is lost, repeated or out of order."""
    with Grid(pcs=2, memory="300M") as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        wait_for("ticks", lambda: len(ticks(g, job)) > 3, 90)
        for move in range(MOVES):
            pc = wait_for(f"move {move}", lambda: [
                p["pc"] for p in g.parts(job) if p["state"] == "running"], 60)[0]
            g.owner(pc, "leave")
            wait_for(f"move {move} to another PC", lambda: [
                p for p in g.parts(job) if p["state"] == "running" and p["pc"] == other(pc)], 60)
            g.owner(pc, "auto")
        wait_ticks(g, job, 3)
        g.yado("cancel", job)
        g.wait_state(job, "cancelled")
        check_ticks(g, job)
        moves = g.moves(job)
        assert len(moves) == MOVES
        total = [m["total_ms"] for m in moves]
        print(f"{MOVES} moves, ms: median {statistics.median(total)}, most {max(total)}")


def test_two_moves_in_a_row_within_a_second():
    """The owner of the second PC comes back while the guest is still prepared there, and then when
    it has hardly begun to run."""
    with Grid(pcs=2, memory="300M") as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        for state in ("preparing", "running"):
            wait_ticks(g, job, 3)
            pc = g.parts(job)[0]["pc"]
            there = g.dir / other(pc) / "vm"
            g.owner_says(pc, "leave")
            wait_for(f"the guest to be {state} there", lambda: [
                p for p in there.glob("*/supervisor.log") if state in p.read_text()], 60, 0.002)
            g.owner_says(other(pc), "leave")
            g.owner_says(pc, "auto")
            assert g.wait_elsewhere(job, other(pc)) == pc
            g.owner_says(other(pc), "auto")
        wait_ticks(g, job, 3)
        check_ticks(g, job)
