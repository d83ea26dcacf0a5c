# SPDX-License-Identifier: Apache-2.0
"""What a PC's sudden death costs: no more than what ran since the last checkpoint, and never the
job. The log is that of one run, whatever was lost on the way.

Seed: YADO_SEED, printed first. Power cuts: 4, or 30 with YADO_SOAK."""
import os
import random
import re
import signal
import time

from grid import Grid, wait_for

CUTS = 30 if os.environ.get("YADO_SOAK") else 4
SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))
LEASE = ["--lease", "8s"]
COUNTER = "i=0; while :; do i=$((i+1)); echo tick $i; usleep 50000; done"


def cut_power(grid, pc):
    """All of a PC at once, as a power cut does; its disk stays."""
    end = time.monotonic() + 5
    while pids := grid.pids(str(grid.dir / pc)):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert time.monotonic() < end
    grid.agents[pc].kill()


def layers(grid, job):
    return grid.parts(job)[0]["layers"]


def ticks(grid, job):
    return [int(n) for n in re.findall(r"^tick (\d+)$", grid.log(job), re.M)]


def assert_whole(grid, job):
    seen = ticks(grid, job)
    assert seen == list(range(1, len(seen) + 1))


def test_a_part_goes_on_from_its_last_checkpoint():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c",
                       "id=$(head -c 8 /dev/urandom | od -An -tx8); echo run $id; " + COUNTER)
        g.wait_state(job, "running")
        wait_for("ticks", lambda: len(ticks(g, job)) > 20)
        g.yado("checkpoint", job)
        wait_for("the checkpoint", lambda: layers(g, job) == 1, 20)
        seen = len(ticks(g, job))
        wait_for("more ticks", lambda: len(ticks(g, job)) > seen + 20)
        part = g.parts(job)[0]
        cut_power(g, part["pc"])
        g.wait_state(job, "running", timeout=40)
        wait_for("another PC", lambda: g.parts(job)[0]["pc"] not in (None, part["pc"]), 40)
        seen = len(ticks(g, job))
        wait_for("ticks", lambda: len(ticks(g, job)) > seen + 20)
        text = g.log(job)
        assert len(re.findall("^run", text, re.M)) == 1, "it began anew"
        assert_whole(g, job)
        # The PC comes back, and learns that its guest lives elsewhere.
        g.agents[part["pc"]].start()
        wait_for("the old guest to be gone", lambda: not list((g.dir / part["pc"] / "vm").iterdir()), 20)
        g.yado("cancel", job)


def lehmer(steps, every):
    x, out = 1, []
    for i in range(1, steps + 1):
        x = x * 16807 % 2147483647
        if i % every == 0:
            out.append(f"{i // every} {x}")
    return out


# What a program computes and prints is the same however often its PC dies.
STEPS, EVERY = (400 if CUTS > 4 else 80), 20000
LEHMER = ["awk", f"BEGIN{{x=1; for(i=1;i<={STEPS * EVERY};i++){{x=(x*16807)%2147483647; "
          f"if(i%{EVERY}==0){{print i/{EVERY}, x; fflush()}}}}; "
          f"print x > \"/out/x\"}}"]


def test_power_cuts_at_random_moments(tmp_path):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    want = lehmer(STEPS * EVERY, EVERY)
    with Grid(pcs=3, memory="300M", master_args=LEASE) as g:
        (g.dir / "job.yaml").write_text("name: long\nmemory: 128M\ncheckpoint: 1s\ncommand:\n" +
                                        "".join(f"  - {w!r}\n" for w in LEHMER))
        job = g.submit("-f", g.dir / "job.yaml")
        for cut in range(CUTS):
            g.wait_state(job, "running", "done", timeout=60)
            time.sleep(rng.random() * 3)  # the moment is what is random
            part = g.parts(job)[0]
            if part["state"] == "done":
                break
            if not part["pc"]:
                continue
            print(f"cut {cut}: {part['pc']}, {part['layers']} layers, run {part['run_ms']} ms")
            cut_power(g, part["pc"])
            g.agents[part["pc"]].start()
            for pc in g.json("pcs")["pcs"]:
                if pc["draining"]:
                    g.yado("drain", pc["name"], "--undo")
            if g.parts(job)[0]["state"] == "held":
                g.yado("release", job)
        # Three cuts within so short a job are three failures of the grid, of which the last may be
        # noticed only now.
        if g.wait_state(job, "done", "held", timeout=200)[0]["state"] == "held":
            g.yado("release", job)
        g.wait_state(job, "done", timeout=200)
        assert g.log(job, 0, "out").split("\n")[:-1] == want
        g.yado("results", job, tmp_path / "r")
        assert (tmp_path / "r/x").read_text().strip() == want[-1].split()[1]


def test_a_live_move():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_for("ticks", lambda: len(ticks(g, job)) > 10)
        was = g.parts(job)[0]["pc"]
        to = "pc-1" if was == "pc-2" else "pc-2"
        r = g.run("move", job, was)
        assert r.returncode and was in r.stderr
        g.yado("move", job, to)
        # The checkpoint is answered: it need not be waited for the 30 s that it may take.
        wait_for("the move", lambda: g.moves(job), 25)
        move = g.moves(job)[0]
        assert (move["reason"], move["from"], move["to"]) == ("move", was, to)
        seen = len(ticks(g, job))
        wait_for("ticks", lambda: len(ticks(g, job)) > seen + 10)
        assert_whole(g, job)
        assert layers(g, job) >= 2, "a checkpoint, then the rest"


def test_a_long_chain_is_merged_while_its_guest_runs():
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "1s", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        most = 0

        def shorter():
            nonlocal most
            now = layers(g, job)
            most = max(most, now)
            return now < most
        wait_for("a shorter chain", shorter, 60)
        was = g.parts(job)[0]["pc"]
        g.owner(was, "leave")
        wait_for("the move", lambda: g.moves(job), 60)
        assert layers(g, job) <= 8
        seen = len(ticks(g, job))
        wait_for("ticks", lambda: len(ticks(g, job)) > seen + 10)
        assert_whole(g, job)
