# SPDX-License-Identifier: Apache-2.0
"""Layers that are damaged, cut off on their way, or find no room: what counts is the newest one
that is whole, and the log is that of one run.

Seed: YADO_SEED, printed first."""
import os
import random
import sqlite3
import subprocess

import pytest

import layer_file
from counter import COUNTER, check_ticks, wait_ticks
from grid import Grid, wait_for
from pressure import HOLDER

SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))


def chain(grid, job):
    """Digests of its layers, oldest first, as they stand in the master's rows."""
    db = sqlite3.connect(f"file:{grid.dir}/master/grid.db?mode=ro", uri=True)
    try:
        return [row[0] for row in db.execute(
            "SELECT lower(hex(layer)) FROM layer WHERE job = ? ORDER BY seq", (job,))]
    finally:
        db.close()


def in_depot(grid, digest):
    return grid.dir / "master/depot" / digest[:2] / digest


def events(grid):
    return [e["text"] for e in grid.json("events", "--limit", "1000")["events"]]


def test_a_flipped_bit_in_every_part_of_a_layer():
    """A guest is to resume from it: it does so from the layer before, and the event says so. Only
    hot list and prints can be done without: they make a resume and the next save quicker."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with Grid(pcs=1, memory="300M") as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c", COUNTER)
        for part in ("header", "device state", "frame 1", "a frame", "hot list", "prints",
                     "page table", "footer"):
            g.wait_state(job, "running")
            wait_ticks(g, job)
            before = chain(g, job)[-1:]  # not how many: they are merged meanwhile
            g.yado("checkpoint", job)
            wait_for("the checkpoint", lambda: chain(g, job)[-1:] != before, 30)
            wait_ticks(g, job)
            g.owner("pc-1", "leave")
            g.wait_state(job, "suspended")
            *_, good, bad = chain(g, job)
            path = in_depot(g, bad)
            print(f"damaged: {layer_file.flip(path, part, rng)}")
            g.owner("pc-1", "auto")
            if part not in ("hot list", "prints"):
                said = f"layer {bad[:16]} is damaged: what counts now is the one before"
                wait_for(said, lambda: said in events(g), 60)
                assert bad not in chain(g, job)
            g.wait_state(job, "running")
            wait_ticks(g, job)
            assert good in chain(g, job)
            check_ticks(g, job)


def test_a_bit_that_rots_under_a_running_guest():
    """All of it is still in the memory of its PC, which saves it anew: nothing goes back. Of a layer
    of this placement, then of one from which the guest was resumed, whose pages it may never have
    written since."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with Grid(pcs=2, memory="300M", fresh=True) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c",
                       HOLDER.replace("24000000", "8000000"))
        g.wait_state(job, "running")
        wait_ticks(g, job)

        def checkpoint():
            before = chain(g, job)
            g.yado("checkpoint", job)
            wait_for("the checkpoint", lambda: chain(g, job) != before, 30)

        def move():
            at = g.parts(job)[0]["pc"]
            g.owner(at, "leave")
            g.wait_elsewhere(job, at)
            g.owner(at, "auto")
            wait_ticks(g, job)

        def rot(digest):
            print("damaged:", layer_file.flip(in_depot(g, digest), "a frame", rng))
            assert g.run("depot", "check").returncode != 0
            said = f"layer {digest[:16]} is damaged"
            wait_for(said, lambda: any(said in e for e in events(g)), 30)
            wait_for("a layer in its place", lambda: chain(g, job) and digest not in chain(g, job), 30)
            assert g.parts(job)[0]["state"] == "running"
            wait_ticks(g, job)

        checkpoint()
        rot(chain(g, job)[0])
        checkpoint()  # and those that follow count as ever
        move()
        rot(chain(g, job)[0])
        checkpoint()
        rot(chain(g, job)[1])  # the one before counts, and is of this placement
        move()
        assert "all is well" in g.yado("depot", "check")
        assert not [e for e in events(g) if "goes back" in e]
        assert [m["reason"] for m in g.moves(job)] == ["owner", "owner"]
        check_ticks(g, job)
        assert len({line for line in g.log(job, 0, "out").splitlines() if line.endswith(" -")}) == 1


class SmallMaster(Grid):
    """Its master's disk is small."""

    def start_master(self):
        if not (self.dir / "master").exists():
            (self.dir / "master").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "small",
                            self.dir / "master"], check=True)
        super().start_master()

    def fill(self):
        with open(self.dir / "master/fill", "wb", buffering=0) as f:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        f.write(bytes(size))
                except OSError:
                    pass


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_a_full_depot_loses_nothing():
    """Checkpoint, output and last layer wait until there is room."""
    with SmallMaster(pcs=1, memory="300M", agent_args=["--return-deadline", "60s"],
                     fresh=True) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        said = g.dir / "pc-1/vm"

        def supervisor_says():
            return "".join(p.read_text() for p in said.glob("*/supervisor.log"))

        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: len(chain(g, job)) == 1, 30)
        g.fill()
        wait_for("output to wait", lambda: "output waits" in supervisor_says(), 60)
        g.owner("pc-1", "leave")
        # Even the report by which it would get an upload slot has no room.
        wait_for("the layer to wait", lambda: "uploading: owner" in supervisor_says(), 60)
        assert "disk is full" in supervisor_says() and len(chain(g, job)) == 1
        os.unlink(g.dir / "master/fill")
        g.wait_state(job, "suspended", timeout=60)
        g.owner("pc-1", "auto")
        g.wait_state(job, "running")
        wait_ticks(g, job)
        check_ticks(g, job)
        assert len(g.moves(job)) == 1


def test_a_depot_filled_up_to_its_quota():
    """What runs is saved and moves as ever; nothing new starts until there is room, or more is
    allowed."""
    with Grid(pcs=2, memory="150M", master_args=["--depot-quota", "100K"]) as g:
        def waits(job):
            return (g.parts(job)[0]["state"] == "queued" and
                    [e for e in g.json("events")["events"] if "nothing new is started" in e["text"]])

        job = g.submit("--memory", "96M", "--checkpoint", "never", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: len(chain(g, job)) == 1, 30)
        assert g.json("status")["layer_bytes"] > 100 << 10
        new = g.submit("--memory", "96M", "--", "sh", "-c", COUNTER)
        wait_for("it to wait", lambda: waits(new), 10)
        g.yado("checkpoint", job)
        wait_for("the second one", lambda: len(chain(g, job)) == 2, 30)
        was = g.parts(job)[0]["pc"]
        g.owner(was, "leave")
        g.wait_elsewhere(job, was)
        g.owner(was, "auto")
        wait_ticks(g, job)
        # More is allowed.
        assert waits(new)
        g.master.kill()
        g.master.args[g.master.args.index("100K")] = "1G"
        g.start_master()
        g.wait_state(new, "running")
        # Less again, until the first one is gone.
        g.master.kill()
        g.master.args[g.master.args.index("1G")] = "100K"
        g.start_master()
        check_ticks(g, job)
        g.yado("cancel", new)
        g.wait_state(new, "cancelled")
        last = g.submit("--memory", "96M", "--", "sh", "-c", COUNTER)
        wait_for("it to wait", lambda: waits(last), 10)
        g.yado("cancel", job)
        g.wait_state(last, "running")
