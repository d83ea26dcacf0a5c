# SPDX-License-Identifier: Apache-2.0
"""Many owners come back at once: the storm of nine o'clock on one master's link."""
import re
import time

from grid import Grid, wait_for

PCS = 20
# Quiet programs: here all of the PCs are one, which has two cores.
PROGRAM = "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i; usleep 400000; done; echo $i > $YADO_OUT/end"


def test_twenty_owners_within_one_second(tmp_path):
    """Every guest stops at once, every part goes on where it stood, and the logs have no break."""
    with Grid(pcs=PCS, memory="150M", master_args=["--lease", "60s"]) as g:
        names = sorted(g.agents)
        job = g.submit("--memory", "96M", "--parts", str(PCS), "--", "sh", "-c", PROGRAM)
        g.wait_state(job, "running", timeout=180)
        wait_for("all to say something", lambda: all(g.log(job, k) for k in range(PCS)), 60)
        assert len({p["pc"] for p in g.parts(job)}) == PCS
        begin = time.monotonic()
        for name in names:
            g.owner_says(name, "leave")
        assert time.monotonic() - begin < 1
        g.wait_state(job, "suspended", timeout=120)
        print(f"{PCS} owners: everything is at the master after {time.monotonic() - begin:.2f} s")
        for name in names:
            g.owner_says(name, "auto")
        g.wait_state(job, "done", timeout=240)
        g.yado("results", job, tmp_path / "r")
        ends = sorted((tmp_path / "r").rglob("end"))
        assert len(ends) == PCS and {e.read_text() for e in ends} == {"40\n"}
        for k in range(PCS):
            assert [int(n) for n in re.findall(r"^(\d+)$", g.log(job, k, "out"), re.M)] == \
                list(range(1, 41)), f"part {k}"
        stops = sorted(m["stop_ms"] for m in g.moves(job))
        print(f"stopped after, ms: {stops}")
        assert len(stops) == PCS
