# SPDX-License-Identifier: Apache-2.0
"""Jobs with `split:` whose plan is made again until the first part starts."""
from api import ApiGrid, FakePC
from grid import wait_for

GIB = 1 << 30
# Two parts that fit large PCs only, or eight that fit all and take longer together.
SPLIT = [{"x": [1, 2], "parts": "2 * x^2", "memory": "1.5e9 / x^2", "work": "1000 / x"}]


def parts_of(g, job):
    return g.admin("GET", f"/v1/jobs/{job}", 200).json()["parts"]


def events_of(g, job):
    return [e["text"] for e in g.admin("GET", f"/v1/events?job={job}", 200).json()["events"]]


def submit(g, **more):
    spec = {"command": ["true"], "split": SPLIT, **more}
    return g.admin("POST", "/v1/jobs", 201, json=spec).json()["id"]


def busy_pc(g, name, memory):
    pc = FakePC(g, name, memory=memory)
    pc.report.update(available=False, reason="owner")
    pc.sync()
    return pc


def test_planned_again_until_it_begins():
    with ApiGrid(master_args=["--replan", "1s"]) as g:
        busy_pc(g, "small", 1 * GIB)
        job, other = submit(g), submit(g, then={"command": ["true"]})
        assert parts_of(g, job) == parts_of(g, other) == 8
        assert any("split as planned: x = 2: 8 parts" in e for e in events_of(g, job))
        large = [busy_pc(g, name, 8 * GIB) for name in ("large-1", "large-2")]
        wait_for("another plan", lambda: parts_of(g, job) == parts_of(g, other) == 2, 20)
        assert any("since the PCs have changed: x = 1: 2 parts" in e for e in events_of(g, job))
        assert len(g.admin("GET", f"/v1/jobs/{job}", 200).json()["parts_list"]) == 2
        g.master.kill()
        g.start_master()
        assert parts_of(g, job) == parts_of(g, other) == 2
        # It begins; from here on it stays as it is, and only the other one is planned again.
        large[0].report.update(available=True, reason="", cpus=1)
        large[0].build_golden()
        first = next(k for k in large[0].desired if k[0] == job)
        spec = large[0].desired[first]["spec"]
        assert spec["env"]["YADO_SPLIT"] == "1" and "split" not in spec and "planned" not in spec
        for pc in large:
            g.admin("POST", f"/v1/pcs/{pc.name}", 200, json={"draining": True})
        wait_for("another plan", lambda: parts_of(g, other) == 8, 20)
        assert parts_of(g, job) == 2


def test_a_planner_that_is_asked_again_and_again():
    """Whoever asks gets a plan; the jobs are planned no sooner for it."""
    with ApiGrid(master_args=["--replan", "1h"]) as g:
        busy_pc(g, "small", 1 * GIB)
        job = submit(g)
        busy_pc(g, "large-1", 8 * GIB)
        busy_pc(g, "large-2", 8 * GIB)
        spec = {"command": ["true"], "split": SPLIT}
        plans = [g.admin("POST", "/v1/split/plan", 200, json=spec).json() for _ in range(20)]
        assert {p["chosen"] for p in plans} == {0}
        assert parts_of(g, job) == 8
