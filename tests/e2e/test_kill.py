# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the master, of agents, of pagers and of QEMUs at random moments loses no acknowledged
job, never gives two results for one part, and leaves logs that are those of one run.

Seed: YADO_SEED, printed first. Kills of each kind: 8, or 50 with YADO_SOAK."""
import os
import pathlib
import random
import re
import signal
import struct
import time

from counter import COUNTER, Lehmer, check_ticks, ticks, wait_ticks
from grid import YADO, Grid, wait_for

KILLS = 50 if os.environ.get("YADO_SOAK") else 8
SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))
COMMITS = 40 if os.environ.get("YADO_SOAK") else 5
STEPS = 60
SHIM = pathlib.Path(YADO).resolve().parent / "libkillpoint.so"

# Every run draws a number of its own: lines of two runs in one log, or a result that is of
# another run than the log, cannot go unseen.
def program(steps):
    return f"""id=$(head -c 8 /dev/urandom | od -An -tx8 | tr -d ' ')
        i=0; while [ $i -lt {steps} ]; do i=$((i+1)); echo $id $i; usleep 100000; done
        echo $id > $YADO_OUT/id"""


def kill_some(grid, rng, what):
    """Kills one process of the kind; False when there is none just now."""
    if what == "master":
        grid.master.kill()
        time.sleep(rng.random())  # how long a master is away is part of the random history
        grid.start_master()
        return True
    if what == "agent":
        agent = grid.agents[rng.choice(sorted(grid.agents))]
        agent.kill()
        time.sleep(rng.random())
        agent.start()
        return True
    words = {"pager": [" pager"], "qemu": ["qemu-system"]}[what]
    pids = sorted(grid.pids(*words))
    if not pids:
        return False
    try:
        os.kill(rng.choice(pids), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def tend(grid):
    """What an administrator does after faults that are not his: let jobs and PCs go on."""
    for pc in grid.json("pcs")["pcs"]:
        if pc["draining"]:
            grid.run("drain", pc["name"], "--undo")
    for job in grid.json("jobs")["jobs"]:
        if job["state"] == "held":
            grid.run("release", job["id"])


def test_kill_matrix(tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    todo = [w for w in ("master", "agent", "pager", "qemu") for _ in range(KILLS)]
    rng.shuffle(todo)
    jobs, killed = [], {}
    with Grid(pcs=3, memory="300M", master_args=["--lease", "12s"], fresh=True) as g:
        def unfinished():
            return [j for j in g.json("jobs")["jobs"]
                    if j["state"] not in ("done", "failed", "cancelled")]

        def submit_until(n):
            while len(unfinished()) < n:
                jobs.append(g.submit("--memory", "128M", "--", "sh", "-c", program(STEPS)))

        submit_until(3)
        wait_for("a first guest to run", lambda: g.pids("qemu-system"), 60)
        while todo:
            time.sleep(rng.random() * 1.5)
            if kill_some(g, rng, todo[0]):
                what = todo.pop(0)
                killed[what] = killed.get(what, 0) + 1
            else:
                rng.shuffle(todo)
            tend(g)
            submit_until(3)
        print(f"killed {killed}, {len(jobs)} jobs")

        def all_done():
            tend(g)
            return not unfinished()
        wait_for("all jobs to finish", all_done, 240, 1)

        for job in jobs:
            part = g.parts(job)[0]
            assert part["state"] == "done", (job, part)
            lines = re.findall(r"^(\w+) (\d+)$", g.log(job, 0, "out"), re.M)
            ids = {i for i, _ in lines}
            assert len(ids) == 1, f"job {job}: the log splices runs {ids}"
            assert [int(n) for _, n in lines] == list(range(1, STEPS + 1)), f"job {job}"
            g.yado("results", job, tmp_path / str(job))
            assert (tmp_path / str(job) / "id").read_text().strip() in ids, \
                f"job {job}: result and log are of different runs"


class KillGrid(Grid):
    """Its master, or what runs on a PC, can be told to die at a sync that is still to come
    (killpoint.c)."""

    def daemon_env(self, name):
        self.arm(0, at=name)
        return {**self.env, "LD_PRELOAD": str(SHIM), "KILLPOINT": str(self.point(name)),
                "ASAN_OPTIONS": self.env["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}

    def point(self, name):
        return self.dir / f"killpoint-{name}"

    def arm(self, syncs, happens=False, at="master"):
        path = self.point(at)
        with open(path, "r+b" if path.exists() else "wb") as f:
            f.write(struct.pack("=qq", syncs, happens))  # in place: it is mapped

    def struck(self, at):
        return struct.unpack("=qq", self.point(at).read_bytes())[0] == 0


def test_a_master_that_dies_in_the_middle_of_commits(tmp_path):
    """Of checkpoints, output, reports and results; what it had confirmed is there."""
    print(f"seed {SEED}")
    rng, steps = random.Random(SEED), max(STEPS, 12 * COMMITS)  # it lasts longer than they do
    with KillGrid(pcs=2, memory="300M", master_args=["--lease", "12s"]) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "1s", "--", "sh", "-c",
                       program(steps))
        g.wait_state(job, "running")
        for kill in range(COMMITS):
            syncs, happens = rng.randint(1, 12), rng.random() < 0.5
            print(f"kill {kill}: at sync {syncs}{', which happens' if happens else ''}")
            g.arm(syncs, happens)
            wait_for("the master to die", lambda: not g.master.alive(), 60)
            g.start_master()
        g.wait_state(job, "done", timeout=60 + steps // 5)
        lines = re.findall(r"^(\w+) (\d+)$", g.log(job, 0, "out"), re.M)
        g.yado("results", job, tmp_path / "r")
        run = (tmp_path / "r/id").read_text().strip()
        assert lines == [(run, str(n)) for n in range(1, steps + 1)]
        assert not g.moves(job), "its PC was there all the time"


def test_a_part_whose_qemu_dies_on_every_pc():
    """It is held, the message says why, and when it is released it goes on from its checkpoint."""
    with Grid(pcs=3, memory="150M") as g:
        job = g.submit("--memory", "96M", "--checkpoint", "never", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: g.parts(job)[0]["layers"] == 1, 20)
        seen, pcs = len(ticks(g, job)), set()
        for _ in range(3):
            part = g.wait_state(job, "running")[0]
            pcs.add(part["pc"])
            [qemu] = g.pids("qemu-system", f"/{job}.0.{part['epoch']}")
            os.kill(qemu, signal.SIGKILL)
            wait_for("its death", lambda: g.parts(job)[0]["epoch"] != part["epoch"] or
                     g.parts(job)[0]["state"] == "held", 30)
        part = g.wait_state(job, "held", timeout=10)[0]
        assert len(pcs) == 3 and "QEMU" in part["reason"] and part["layers"] == 1, part
        assert [e for e in g.json("events")["events"] if e.get("job") == job and
                "held after 3 failures of the grid" in e["text"]]
        assert not g.pids("qemu-system")
        g.yado("release", job)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        check_ticks(g, job)
        assert len(ticks(g, job)) > seen and g.parts(job)[0]["state"] == "running"


def test_a_master_that_is_stopped_for_longer_than_every_lease(tmp_path):
    """(10 minutes with YADO_SOAK.) One guest stands, one is saved for its owner meanwhile: nothing is
    moved for nothing, and nothing is lost."""
    lease, away = 3, 600 if os.environ.get("YADO_SOAK") else 6
    program = Lehmer(24)
    with Grid(pcs=2, memory="150M", master_args=["--lease", f"{lease}s"]) as g:
        jobs = [g.submit("--memory", "96M", "--checkpoint", "1s", "--", *program.command)
                for _ in range(2)]
        for job in jobs:
            g.wait_state(job, "running")
        wait_for("checkpoints", lambda: all(g.parts(j)[0]["layers"] for j in jobs), 20)
        stays, leaves = [g.parts(job)[0] for job in jobs]
        g.master.kill(signal.SIGSTOP, wait=False)
        time.sleep(1)
        g.owner(leaves["pc"], "leave")
        time.sleep(away)  # what is tested
        g.master.kill(signal.SIGCONT, wait=False)
        wait_for("its save to count", lambda: g.parts(jobs[1])[0]["state"] == "suspended" or
                 g.moves(jobs[1]), 60)
        g.owner(leaves["pc"], "auto")
        for job in jobs:
            g.wait_state(job, "done")
            program.check(g, job, tmp_path / str(job))
        assert g.parts(jobs[0])[0]["epoch"] == stays["epoch"] and not g.moves(jobs[0])
        assert [m["reason"] for m in g.moves(jobs[1])] == ["owner"]
