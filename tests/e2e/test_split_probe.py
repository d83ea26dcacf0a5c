# SPDX-License-Identifier: Apache-2.0
"""`yado split probe` measures small parts in a real guest."""
import json

import yaml

from grid import Grid

# Holds about 128 MiB / x^2 at once, and counts to 80,000 / x^2.
PROGRAM = r'''
test "$YADO_PART" = 0 || exit 9
test "$YADO_PARTS" = $((YADO_SPLIT * YADO_SPLIT)) || exit 8
dd if=/dev/zero of=/dev/null bs=$((134217728 / YADO_SPLIT / YADO_SPLIT)) count=1 || exit 7
i=0; while [ $i -lt $((80000 / YADO_SPLIT / YADO_SPLIT)) ]; do i=$((i + 1)); done
'''


def test_probe(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({
        "name": "p", "command": ["sh", "-c", PROGRAM],
        "split": {"x": [1, 2], "parts": "x^2", "output": "min(x, 3)"},
        "then": {"command": ["true"]}}))
    failing = tmp_path / "failing.yaml"
    failing.write_text("command: [sh, -c, exit $YADO_SPLIT]\n"
                       "split: {x: [1], parts: x}\n")
    with Grid(pcs=1, memory="500M") as g:
        said = json.loads(g.yado("split", "probe", "--json", "--x", "2,3,4", job))
        runs = said["runs"]
        assert [r["x"] for r in runs] == [2, 3, 4]
        assert said["idle"]["memory_bytes"] > 4 << 20
        # Finer parts are smaller, and the fit is near what was measured. (Times on a machine that
        # has other tests to run say nothing.)
        assert all(r["work_s"] > 0 and r["fitted_work_s"] > 0 for r in runs)
        for r in runs:
            assert r["fitted_memory_bytes"] >= 0.999 * r["memory_bytes"], r
        assert runs[0]["memory_bytes"] > runs[2]["memory_bytes"] > 4 << 20, runs
        fitted = said["split"][0]
        assert "/ x^2" in fitted["memory"].replace("1.9", "2") and fitted["output"] == "min(x, 3)", said
        # What it prints is a job file again, which can be planned.
        text = g.yado("split", "probe", "--x", "6", job)
        head, split = text.split("split:\n")
        assert "MEMORY" in head and "FITTED" in head
        again = dict(yaml.safe_load(job.read_text()), split=yaml.safe_load(split))
        assert again["split"][0]["x"] == [1, 2]
        job.write_text(yaml.safe_dump(again))
        plan = json.loads(g.yado("split", "plan", "--json", job))
        assert [c["parts"] for c in plan["candidates"]] == [1, 4]
        # A part that fails says which and why.
        r = g.run("split", "probe", "--x", "3", failing)
        assert r.returncode == 1 and "is failed: exit status 3" in r.stderr, r.stderr
