# SPDX-License-Identifier: Apache-2.0
"""Parts of a job that talk, with real guests: what they compute is what they would have computed
undisturbed, whatever becomes of their PCs and of the master."""
import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from grid import YADO, Grid, wait_for

APPS = pathlib.Path(YADO).resolve().parent / "apps/talk"


def undisturbed(parts, program, *args):
    """The last line of rank 0 under `yado local`, where nothing happens."""
    r = subprocess.run([YADO, "local", "-n", str(parts), "--", str(APPS / program), *map(str, args)],
                       capture_output=True, text=True, timeout=120, check=True)
    return [line[3:] for line in r.stdout.splitlines() if line.startswith("0: ")][-1]


def submit(g, parts, program, *args, options=()):
    return g.submit("--parts", parts, "--memory", "128M", "--input", APPS / program, *options,
                    "--", f"/in/{program}", *args)


def running(g, job, count):
    def all_run():
        parts = g.parts(job)
        return [p["state"] for p in parts] == ["running"] * count and parts
    return wait_for(f"{count} parts to run", all_run, 120, 0.1)


def steps(g, job):
    return [int(n) for n in re.findall(r"^heat: step (\d+)$", g.log(job, 0, "out"), re.M)]


def lose_power(g, pc):
    """All that runs on that PC is gone at once."""
    for _ in range(5):
        for pid in g.pids(str(g.dir / pc)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    g.agents[pc].kill()


def test_heat_whatever_happens():
    args = ("--n", 48, "--steps", 300, "--pause", 20)
    want = undisturbed(3, "heat", "--n", 48, "--steps", 300)
    with Grid(pcs=3, memory="400M", master_args=["--lease", "10s"]) as g:
        job = submit(g, 3, "heat", *args, options=("--checkpoint", "2s"))
        parts = running(g, job, 3)
        wait_for("some steps", lambda: steps(g, job), 60)
        # The owner of rank 1's PC comes back; its neighbours wait for it, and go on.
        g.owner(parts[1]["pc"], "leave")
        seen = len(steps(g, job))
        wait_for("steps after the move", lambda: len(steps(g, job)) > seen, 60)
        g.owner(parts[1]["pc"], "auto")
        # Rank 2's PC loses its power, and what it did since its last checkpoint is done again.
        pc = g.parts(job)[2]["pc"]
        lose_power(g, pc)
        g.agents[pc].start()
        # Meanwhile the master is killed.
        g.master.kill()
        g.start_master()
        g.wait_state(job, "done", timeout=180)
        assert g.log(job, 0, "out").splitlines()[-1] == want
        assert steps(g, job) == sorted(set(steps(g, job)))
        print([(m["reason"], m["total_ms"]) for m in g.moves(job)])
