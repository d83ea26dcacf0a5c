# SPDX-License-Identifier: Apache-2.0
"""The job file of docs/examples in real guests, smaller: both ways to split it come to the same
product, and a submit takes the one that the plan names."""
import json
import os
import pathlib
import shutil
import subprocess

import yaml

from grid import Grid, ROOT, wait_for

N = 384
MATRIX = pathlib.Path(os.environ["YADO"]).parent / "apps/matrix/matrix"


def job_file(folder, ways=("blocks", "products"), x=(1, 2)):
    text = (ROOT / "docs/examples/matrix.yaml").read_text()
    assert text.count("8192") > 4
    job = yaml.safe_load(text.replace("8192", str(N)))
    job["split"] = [dict(s, x=list(x)) for s in job["split"] if s["name"] in ways]
    assert len(job["split"]) == len(ways)
    path = folder / f"{'-'.join(ways)}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def finish(g, job, folder):
    """Waits for the job and what combines it; the product is checked."""
    g.wait_state(job, "done", timeout=240)
    combine = wait_for("the combining job", lambda: g.job(job).get("then_job"))
    g.wait_state(combine, "done", timeout=120)
    g.yado("results", combine, folder)
    out = subprocess.run([MATRIX, "check", "--n", str(N), "--seed", "1", "--full", folder / "C.npy"],
                         capture_output=True, text=True)
    assert out.returncode == 0 and "max_abs_error" in out.stdout, out


def test_both_ways_to_split_the_matrix_job(tmp_path):
    shutil.copy(MATRIX, tmp_path / "matrix")
    with Grid(pcs=2, memory="800M", cpus="2") as g:
        wait_for("both PCs", lambda: sum(p["available"] for p in g.json("pcs")["pcs"]) == 2)
        both = job_file(tmp_path)
        plan = json.loads(g.yado("split", "plan", "--json", both))
        assert [(c["shape"], c["parts"]) for c in plan["candidates"]] == [
            ("blocks", 1), ("blocks", 4), ("products", 1), ("products", 8)], plan
        assert all(c["fits"] == 2 and c["holds"] >= 4 for c in plan["candidates"]), plan
        chosen = plan["candidates"][plan["chosen"]]
        job = g.submit("-f", both)
        assert g.job(job)["parts"] == chosen["parts"]
        finish(g, job, tmp_path / "both")
        for way, parts in (("blocks", 4), ("products", 8)):
            job = g.submit("-f", job_file(tmp_path, (way,), (2,)))
            assert g.job(job)["parts"] == parts
            finish(g, job, tmp_path / way)
