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
    pc = FakePC(g, name, memory=memory, cpus=1)
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


def plan(g, spec, **query):
    asked = "&".join(f"{k}={v}" for k, v in query.items())
    return g.admin("POST", f"/v1/split/plan?{asked}", 200, json=spec).json()


def test_a_plan_knows_what_else_there_is_to_do():
    spec = {"command": ["true"], "split": SPLIT}
    with ApiGrid() as g:
        pcs = [FakePC(g, f"pc-{i}", memory=8 * GIB, cpus=1) for i in range(2)]
        for pc in pcs:
            pc.sync()
        idle = plan(g, spec)
        assert idle["chosen"] == 0 and idle["candidates"][0]["holds"] == 2, idle
        assert 1000 <= idle["candidates"][0]["expected_s"] < 1200, idle
        # One PC has a guest of which nobody knows how long it runs: ten minutes are supposed.
        job = g.admin("POST", "/v1/jobs", 201, json={"command": ["true"]}).json()["id"]
        pcs[0].build_golden()
        pcs[1].sync()
        next(pc for pc in pcs if any(k[0] == job for k in pc.desired)).take(job)
        busy = plan(g, spec)
        assert 1550 <= busy["candidates"][0]["expected_s"] < 1800, busy
        # And ten parts wait before it, in two queues of five.
        g.admin("POST", "/v1/jobs", 201, json={"command": ["true"], "parts": 12})
        waits = plan(g, spec)
        assert waits["candidates"][0]["expected_s"] > 3000, waits
        # Those of another user do not stand before it: it gets every other place.
        other = g.user("bob")
        shared = other("POST", "/v1/split/plan", 200, json=spec).json()
        assert shared["candidates"][0]["expected_s"] < waits["candidates"][0]["expected_s"] - 500


def test_a_pc_with_several_cpus_holds_several_parts():
    spec = {"command": ["true"], "split": [{"x": [1, 4], "parts": "x", "memory": "200e6",
                                            "work": "4000 / x"}]}
    with ApiGrid() as g:
        pc = FakePC(g, "pc-1", memory=8 * GIB, cpus=1)
        pc.sync()
        assert plan(g, spec)["chosen"] == 0
        pc.report["cpus"] = 4
        pc.sync()
        four = plan(g, spec)
        assert four["chosen"] == 1 and four["candidates"][1]["holds"] == 4, four
        assert four["candidates"][1]["expected_s"] < 1200, four
        pc.report["memory_bytes"] = 1 * GIB  # for two at once
        pc.sync()
        two = plan(g, spec)
        assert two["candidates"][1]["holds"] == 2 and two["candidates"][1]["expected_s"] > 2000, two
        g.admin.error("POST", "/v1/split/plan", 409, "CPUs", json={**spec, "cpus": 8})
