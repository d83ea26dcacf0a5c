# SPDX-License-Identifier: Apache-2.0
"""Wall clocks that are an hour off, or are set by an hour while everything runs: jobs run on, moves
work, nothing is moved for nothing. And PCs that sleep. The clocks of real daemons are set by
wallclock.c."""
import os
import pathlib
import signal
import struct
import time

from counter import check_ticks, wait_ticks
from grid import Grid, YADO, wait_for

HOUR = 3600
SHIM = pathlib.Path(YADO).resolve().parent / "libwallclock.so"
COUNTER = ("i=0; while [ ! -e /tmp/end ] && [ $i -lt 3000 ]; do i=$((i+1)); echo tick $i; "
           "usleep 50000; done")


class ClockGrid(Grid):
    """off: what the wall clock of a daemon, and of all it starts, is off at first, in seconds."""

    def __init__(self, off, **kw):
        super().__init__(**kw)
        self.off = off

    def clock(self, name):
        return self.dir / f"{name}.clock"

    def set_clock(self, name, off_s, slept_s=0):
        with open(self.clock(name), "r+b" if self.clock(name).exists() else "wb") as f:
            f.write(struct.pack("=qq", off_s, slept_s))  # in place: it is mapped

    def freeze(self, pc, sig=signal.SIGSTOP):
        for pid in self.pids(str(self.dir / pc)):
            os.kill(pid, sig)

    def wake(self, pc):
        """It was frozen, and slept for hours."""
        self.set_clock(pc, 3 * HOUR, 3 * HOUR)
        self.freeze(pc, signal.SIGCONT)

    def supervisor_says(self, pc):
        return "".join(p.read_text() for p in (self.dir / pc / "vm").glob("*/supervisor.log"))

    def daemon_env(self, name):
        if not self.clock(name).exists():
            self.set_clock(name, self.off.get(name, 0))
        return {**self.env, "LD_PRELOAD": str(SHIM), "WALLCLOCK": str(self.clock(name)),
                "ASAN_OPTIONS": self.env["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}

    def move(self, job):
        """The owner of the job's PC comes back; the job goes on at another."""
        def running_on():
            p = self.parts(job)[0]
            return p["state"] == "running" and p["pc"]
        pc = wait_for(f"job {job} to run", running_on, 90)
        wait_ticks(self, job, 3)
        self.owner(pc, "leave")
        wait_for(f"job {job} to run elsewhere", lambda: running_on() not in (False, pc), 60)
        self.owner(pc, "auto")
        wait_ticks(self, job, 3)


def short_job(g):
    job = g.submit("--memory", "128M", "--time-limit", "60s", "--", "sh", "-c",
                   "echo one; sleep 1; echo two > $YADO_OUT/two")
    g.wait_state(job, "done")
    assert g.log(job, 0, "out") == "one\n"
    g.yado("results", job, g.dir / f"result-{job}")
    assert (g.dir / f"result-{job}/two").read_text() == "two\n"


def test_pcs_that_are_an_hour_off():
    """One ahead, one behind: their certificates and the master's are good for them, they run jobs
    and hand them over, and every figure is a duration, not a difference of two PCs' clocks."""
    with ClockGrid({"pc-1": HOUR, "pc-2": -HOUR}, pcs=2, memory="300M",
                   master_args=["--lease", "12s"]) as g:
        short_job(g)
        job = g.submit("--memory", "128M", "--time-limit", "10m", "--", "sh", "-c", COUNTER)
        g.move(job)
        g.move(job)
        # An agent whose clock is ahead must not wait an hour before it asks again.
        g.master.kill()
        wait_for("an attempt to fail",
                 lambda: "no answer from the master" in g.agents["pc-1"].text(), 20)
        g.start_master()
        wait_for("the next attempt", lambda: "answers again" in g.agents["pc-1"].text(), 20)
        wait_ticks(g, job, 3)
        check_ticks(g, job)
        moves = g.moves(job)
        assert [m["reason"] for m in moves] == ["owner", "owner"]
        assert all(0 <= m[k] < 60000 for m in moves for k in m if k.endswith("_ms")
                   and k != "at_ms"), moves
        assert g.parts(job)[0]["run_ms"] < 300000


def test_a_master_that_is_an_hour_off():
    for off in (HOUR, -HOUR):
        with ClockGrid({"master": off}, pcs=1, memory="300M") as g:
            short_job(g)


def test_the_masters_clock_is_set_while_it_runs():
    """An hour forwards, two back, and one forwards again while it is down: no lease lapses for it,
    no part gets a new epoch, and new jobs, PCs and moves are as ever."""
    with ClockGrid({}, pcs=2, memory="200M", master_args=["--lease", "12s"]) as g:
        jobs = [g.submit("--memory", "128M", "--time-limit", "10m", "--", "sh", "-c", COUNTER)
                for _ in range(2)]
        for job in jobs:
            g.wait_state(job, "running")

        def placements():
            return [(p["pc"], p["epoch"], p["moves"]) for j in jobs for p in g.parts(j)]
        before = placements()
        for i, off in enumerate((HOUR, -HOUR, 0), 1):
            if off:
                said = g.master.text().count("every lease starts anew")
                g.set_clock("master", off)
                wait_for("the master to see it", lambda: g.master.text().count(
                    "every lease starts anew") > said, 10)
            else:
                g.master.kill()
                g.set_clock("master", off)
                g.start_master()
            for job in jobs:
                wait_ticks(g, job, 3)
            g.add_pc(f"pc-{i + 2}")
            short_job(g)
            assert placements() == before
            assert "no word from" not in g.master.text()
        g.move(jobs[0])
        for job in jobs:
            check_ticks(g, job)


def test_a_pc_that_slept_asks_before_its_guest_runs():
    """Nobody announced the sleep, and nobody answers at first."""
    with ClockGrid({}, pcs=1, memory="300M", master_args=["--lease", "8s"]) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job, 3)
        part = g.parts(job)[0]
        g.master.kill(signal.SIGSTOP, wait=False)
        g.freeze("pc-1")
        said = len(g.supervisor_says("pc-1"))
        g.wake("pc-1")
        wait_for("the guest to be stopped", lambda: "paused" in g.supervisor_says("pc-1")[said:], 10)
        time.sleep(2)  # what is tested: it stays so, as long as nobody allows it
        assert "running" not in g.supervisor_says("pc-1")[said:]
        g.master.kill(signal.SIGCONT, wait=False)
        wait_ticks(g, job, 3)
        check_ticks(g, job)
        now = g.parts(job)[0]
        assert (now["epoch"], now["pc"]) == (part["epoch"], part["pc"]) and not g.moves(job)


def test_a_guest_that_lives_elsewhere_when_its_pc_wakes():
    with ClockGrid({}, pcs=2, memory="300M", master_args=["--lease", "8s"]) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job, 3)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: g.parts(job)[0]["layers"] == 1, 20)
        was = g.parts(job)[0]["pc"]
        g.freeze(was)
        g.wait_elsewhere(job, was)
        wait_ticks(g, job, 3)
        g.wake(was)
        wait_for("the old guest to be gone", lambda: not list((g.dir / was / "vm").iterdir()), 30)
        wait_ticks(g, job, 3)
        check_ticks(g, job)
        assert [m["reason"] for m in g.moves(job)] == ["died"]
