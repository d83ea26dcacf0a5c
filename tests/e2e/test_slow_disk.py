# SPDX-License-Identifier: Apache-2.0
"""A move does not wait for the PC's own disk: the last layer is sent while it is written there.
The disk is that of slowdisk.c."""
import pathlib
import time

import pytest

from counter import COUNTER, check_ticks, wait_ticks
from grid import Grid, YADO, wait_for

SHIM = pathlib.Path(YADO).resolve().parent / "libslowdisk.so"


class SlowGrid(Grid):
    def __init__(self, how, **kw):
        super().__init__(**kw)
        self.how = how

    def daemon_env(self, name):
        if name == "master":
            return self.env
        return {**self.env, "LD_PRELOAD": str(SHIM), "SLOWDISK": self.how,
                "ASAN_OPTIONS": self.env["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}


@pytest.mark.parametrize("how, why", [("20000", "owner"), ("error", "owner"), ("20000", "move"),
                                      ("error", "move")])
def test_a_move_does_not_wait_for_the_disk(how, why):
    """Nor does an owner's disk get anything to do where the master has the layer at once."""
    with SlowGrid(how, pcs=2, memory="200M") as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        pc = wait_for("the job to run",
                      lambda: (p := g.parts(job)[0])["state"] == "running" and p["pc"], 90)
        wait_ticks(g, job, 3)
        path, = (g.dir / pc / "vm").glob("1.*/supervisor.log")
        start = time.monotonic()
        with path.open() as log:  # it outlives its name
            if why == "owner":
                g.owner(pc, "leave")
            else:
                g.yado("move", f"{job}.0", next(p for p in g.agents if p != pc))
            wait_for("the job to run elsewhere",
                     lambda: (p := g.parts(job)[0])["state"] == "running" and p["pc"] != pc, 60)
            words = log.read()
        assert time.monotonic() - start < 15
        assert f"suspended: {why}" in words and f"saved: {why}" not in words, words
        assert ("a power cut would lose" in words) == (how == "error" and why == "move"), words
        wait_ticks(g, job, 3)
        check_ticks(g, job)
