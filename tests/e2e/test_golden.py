# SPDX-License-Identifier: Apache-2.0
"""Golden layers are booted once: in a grid by its first job, in a session of tests by its first
grid. Were they silently not shared any more, all tests would take longer and none would fail."""
import pytest

import golden
from grid import Grid


@pytest.mark.parametrize("fresh", [False, True])
def test_golden_layers_are_made_once(fresh):
    with Grid(pcs=1, fresh=fresh) as g:
        jobs = [g.submit("--memory", memory, "--", "echo", memory)
                for memory in (*golden.SIZES, golden.SIZES[0])]
        assert jobs == [1, 2, 3]
        for job in jobs:
            g.wait_state(job, "done")
        made = [e for e in g.json("events")["events"] if "has made golden layer" in e["text"]]
        assert len(made) == (len(golden.SIZES) if fresh else 0), made
        assert g.log(1, 0, "out") == "128M\n"
