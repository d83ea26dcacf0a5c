# SPDX-License-Identifier: Apache-2.0
"""What a PC's sudden death costs: no more than what ran since the last checkpoint, and never the
job. The log is that of one run, whatever was lost on the way.

Seed: YADO_SEED, printed first. Power cuts: 30, or 100 with YADO_SOAK."""
import json
import os
import random
import re
import signal
import time

import pytest

from counter import COUNTER, Lehmer, check_ticks, wait_ticks
from grid import Grid, wait_for
from pressure import HOLDER, page_out

CUTS = 100 if os.environ.get("YADO_SOAK") else 30
SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))
LEASE = ["--lease", "8s"]
INTERVAL_MS = 1000  # of the job whose PCs lose their power
RECORD_MS = 2000    # and what it takes until a checkpoint is written, sent and recorded, here


def layers(grid, job):
    return grid.parts(job)[0]["layers"]


def test_a_part_goes_on_from_its_last_checkpoint():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c",
                       "id=$(head -c 8 /dev/urandom | od -An -tx8); echo run $id; " + COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job, 20)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: layers(g, job) == 1, 20)
        wait_ticks(g, job, 20)
        part = g.parts(job)[0]
        g.cut_power(part["pc"])
        g.wait_state(job, "running", timeout=40)
        wait_for("another PC", lambda: g.parts(job)[0]["pc"] not in (None, part["pc"]), 40)
        wait_ticks(g, job, 20)
        text = g.log(job)
        assert len(re.findall("^run", text, re.M)) == 1, "it began anew"
        check_ticks(g, job)
        # The PC comes back, and learns that its guest lives elsewhere.
        g.agents[part["pc"]].start()
        wait_for("the old guest to be gone", lambda: not list((g.dir / part["pc"] / "vm").iterdir()), 20)
        g.yado("cancel", job)


def wait_unheld(grid, job, *states, timeout):
    """Three cuts in a row are three failures of the grid: then the part is held."""
    while grid.wait_state(job, "held", *states, timeout=timeout)[0]["state"] == "held":
        grid.yado("release", job)


def test_power_cuts_at_random_moments(tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    program = Lehmer(5 * CUTS)
    with Grid(pcs=3, memory="300M", master_args=LEASE) as g:
        (g.dir / "job.yaml").write_text("name: long\nmemory: 128M\ncheckpoint: 1s\ncommand:\n" +
                                        "".join(f"  - {w!r}\n" for w in program.command))
        job = g.submit("-f", g.dir / "job.yaml")
        cut, lost_ms = 0, []
        while cut < CUTS:
            wait_unheld(g, job, "running", "done", timeout=60)
            since, ran_ms = time.monotonic(), g.parts(job)[0]["run_ms"]  # of the layer below
            time.sleep(rng.random() * 2.5)  # the moment is what is random
            part = g.parts(job)[0]
            assert part["state"] != "done", f"it ended before cut {cut}"
            if not part["pc"]:
                continue
            cut += 1
            print(f"cut {cut}: {part['pc']}, {part['layers']} layers, run {part['run_ms']} ms")
            ran_ms += (time.monotonic() - since) * 1000
            g.cut_power(part["pc"])
            g.agents[part["pc"]].start()
            back, = wait_for("the master to hear of it", lambda: [
                p for p in g.parts(job)
                if (p["state"], p["epoch"]) != (part["state"], part["epoch"])], 60)
            if part["state"] == "running":
                lost_ms.append(round(ran_ms - back["run_ms"]))
            for pc in g.json("pcs")["pcs"]:
                if pc["draining"]:
                    g.yado("drain", pc["name"], "--undo")
        wait_unheld(g, job, "done", timeout=200)
        program.check(g, job, tmp_path / "r")
        print(f"lost at a cut, ms: {sorted(lost_ms)}")
        assert len(lost_ms) > CUTS // 2 and max(lost_ms) < INTERVAL_MS + RECORD_MS


def test_a_live_move():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c", HOLDER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        was = g.parts(job)[0]["pc"]
        to = "pc-1" if was == "pc-2" else "pc-2"
        r = g.run("move", job, was)
        assert r.returncode and was in r.stderr
        g.yado("move", job, to)
        # The checkpoint is answered: it need not be waited for the 30 s that it may take.
        wait_for("the move", lambda: g.moves(job), 25)
        move = g.moves(job)[0]
        assert (move["reason"], move["from"], move["to"]) == ("move", was, to)
        wait_ticks(g, job)
        check_ticks(g, job)
        assert layers(g, job) >= 2
        all_bytes = g.json("status")["layer_bytes"]
        assert move["bytes"] < all_bytes / 4, "a checkpoint, then the rest, which is little"


def blobs(grid):
    return [p for p in (grid.dir / "master/depot").glob("*/*") if len(p.name) == 64]


def test_a_long_chain_is_merged_while_its_guest_runs():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        first = g.submit("--memory", "128M", "--checkpoint", "never", "--", "true")
        g.wait_state(first, "done")
        others = len(blobs(g))
        job = g.submit("--memory", "128M", "--checkpoint", "1s", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        most = 0

        def shorter():
            nonlocal most
            now = layers(g, job)
            most = max(most, now)
            return now < most
        wait_for("a shorter chain", shorter, 60)
        wait_for("what was merged to leave the depot",
                 lambda: len(blobs(g)) - others <= layers(g, job), 20)
        was = g.parts(job)[0]["pc"]
        g.owner(was, "leave")
        wait_for("the move", lambda: g.moves(job), 60)
        assert layers(g, job) <= 8
        wait_ticks(g, job)
        check_ticks(g, job)
        for pc in g.agents:
            g.owner(pc, "leave")
        g.wait_state(job, "suspended")  # nothing is on its way
        g.yado("cancel", job)
        wait_for("its layers to leave the depot", lambda: len(blobs(g)) == others, 20)


def open_log(grid, job):
    """Of the supervisor that the job's part has now; it outlives its name."""
    return (grid.dir / f"pc-1/vm/{job}.0.{grid.parts(job)[0]['epoch']}/supervisor.log").open()


def test_a_guest_that_stands_too_long_is_rebased():
    """All that it has written is compared for each checkpoint; resumed afresh over its layers it has
    written nothing."""
    with Grid(pcs=1, memory="300M", master_args=["--rebase", "5ms"]) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c",
                       HOLDER.replace("24000000", "8000000"))
        g.wait_state(job, "running")
        wait_for("what it holds", lambda: "tick" in g.log(job))

        def checkpoint(log):
            """How many pages of its own the guest had at each save."""
            g.run("checkpoint", job)  # which refuses while it moves
            log.seek(0)
            return [int(n) for n in re.findall(r" (\d+) private ones looked at", log.read())]
        with open_log(g, job) as log:
            before = wait_for("a checkpoint of it", lambda: checkpoint(log), every=1)
        assert before[0] > 2000

        # Not before it has run for a while.
        wait_for("the move", lambda: g.moves(job) or g.run("checkpoint", job) and 0, every=1)
        move = g.moves(job)[0]
        assert (move["reason"], move["from"], move["to"]) == ("rebase", "pc-1", "pc-1")
        assert [e for e in g.json("events")["events"] if "is re-based: it stood" in e["text"]]
        g.wait_state(job, "running")
        with open_log(g, job) as log:
            after = wait_for("a checkpoint", lambda: checkpoint(log), every=1)
        print(f"{before} pages compared, then {after}; {move['total_ms']} ms")
        assert after[0] < before[-1] / 2
        wait_ticks(g, job, 5)
        check_ticks(g, job)
        assert len(set(digests(g, job))) == 1, "its memory is what it was"


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
def test_a_pager_that_hangs_under_a_running_guest():
    """The guest waits for its memory and does not answer: it is given up, and goes on from its last
    checkpoint."""
    with Grid(pcs=1, memory="300M", master_args=LEASE,
              agent_args=["--priority", "normal", "--guest-silence", "8s"]) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c", HOLDER)
        g.wait_state(job, "running")
        wait_ticks(g, job, 3)
        g.owner("pc-1", "leave")
        g.wait_state(job, "suspended")
        g.owner("pc-1", "auto")
        g.wait_state(job, "running")
        wait_ticks(g, job, 3)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: layers(g, job) >= 2, 20)
        part = g.parts(job)[0]
        vm, = (g.dir / "pc-1/vm").glob(f"{job}.*")
        qemu, = g.pids("qemu-system", str(vm))
        supervisor, = g.pids("yado supervisor", str(vm))
        pager, = g.pids("yado pager", str(vm))
        page_out(qemu, supervisor, vm)
        os.kill(pager, signal.SIGSTOP)
        wait_for("it to be given up", lambda: [e for e in g.json("events")["events"] if
                                               "guest does not answer" in e["text"]], 60)
        wait_for("the memory to be given back", lambda: not set(g.pids(str(vm))), 5)
        g.wait_state(job, "running", timeout=60)
        assert g.parts(job)[0]["epoch"] > part["epoch"]
        wait_ticks(g, job, 3)
        check_ticks(g, job)
        assert len(set(digests(g, job))) == 1


def damage_cache(grid, pc, digests, rng):
    """So that what the PC has of these blobs must be fetched again."""
    for digest in digests:
        path = grid.dir / pc / "cache" / f"{digest}.data"
        with open(path, "r+b") as f:
            for _ in range(100):
                f.seek(rng.randrange(path.stat().st_size))
                f.write(b"rotten")


def digests(grid, job):
    return re.findall(r"^([0-9a-f]{64})  -$", grid.log(job), re.M)


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")
def test_layers_under_a_running_guest_stay_where_it_finds_them():
    """They are merged, what nobody needs is swept, the PC loses what it has of them and is short of
    memory: the guest reads what it read before."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    with Grid(pcs=2, memory="300M", master_args=LEASE,
              agent_args=["--priority", "normal"]) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "1s", "--", "sh", "-c", HOLDER)
        wait_for("some layers", lambda: layers(g, job) >= 3, 60)
        g.owner(g.parts(job)[0]["pc"], "leave")
        wait_for("the move", lambda: g.moves(job), 60)
        part = g.parts(job)[0]
        vm, = (g.dir / part["pc"] / "vm").glob(f"{job}.*")
        chain = [l["digest"] for l in json.loads((vm / "config.json").read_text())["desired"]["chain"]]
        assert len(chain) >= 3
        most = 0

        def merged():
            nonlocal most
            most = max(most, layers(g, job))
            return layers(g, job) < most
        wait_for("a shorter chain", merged, 60)
        for digest in chain:  # old enough to be swept
            os.utime(g.dir / "master/depot" / digest[:2] / digest, (0, 0))
        nobodys = g.dir / "master/depot/00" / ("00" * 32)
        nobodys.parent.mkdir(exist_ok=True)
        nobodys.write_bytes(b"")
        os.utime(nobodys, (0, 0))
        g.master.kill(signal.SIGTERM)
        g.start_master()
        wait_for("the sweep", lambda: not nobodys.exists(), 20)
        qemu, = g.pids("qemu-system", str(vm))
        supervisor, = g.pids("yado supervisor", str(vm))
        for _ in range(3):
            damage_cache(g, part["pc"], chain, rng)
            page_out(qemu, supervisor, vm)
            seen = len(digests(g, job))
            wait_for("another digest", lambda: len(digests(g, job)) > seen + 1, 60)
        assert len(set(digests(g, job))) == 1
        assert g.parts(job)[0]["state"] == "running" and not g.moves(job)[1:]
