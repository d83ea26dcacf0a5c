# SPDX-License-Identifier: Apache-2.0
"""An unmodified Debian program on an image made by `yado image build` is moved twice in mid-run;
its output equals an undisturbed run's."""
from grid import Grid, wait_for

BIG = "/usr/bin/qemu-system-x86_64"  # a large real file that is on every machine that tests
JOB = ("echo started; xz -T1 -6 -v -c /in/qemu-system-x86_64 > $YADO_OUT/out.xz && "
       "xz --version && sha256sum < $YADO_OUT/out.xz")


def test_compressor_is_moved_twice(tmp_path):
    with Grid(pcs=2, memory="900M") as g:
        g.yado("image", "build", "debian", "--include", "xz-utils", timeout=400)

        def submit():
            return g.submit("--image", "debian", "--memory", "384M", "--input", BIG,
                            "--", "sh", "-c", JOB)

        def result(job):
            g.yado("results", job, tmp_path / str(job))
            return (tmp_path / str(job) / "out.xz").read_bytes(), g.log(job, 0, "out")

        undisturbed = submit()
        g.wait_state(undisturbed, "done", timeout=300)
        assert g.moves(undisturbed) == []
        moved = submit()
        for _ in range(2):
            part = wait_for("the compressor to run", lambda: [
                p for p in g.parts(moved) if p["state"] == "running"
                and "started" in g.log(moved)], 120)[0]
            g.owner(part["pc"], "leave")
            wait_for("the move", lambda: [p for p in g.parts(moved) if p["state"] == "running"
                                          and p["pc"] != part["pc"]], 60)
            g.owner(part["pc"], "auto")
        assert g.parts(moved)[0]["state"] == "running", "the job ended before its second move"
        g.wait_state(moved, "done", timeout=300)
        assert len(g.moves(moved)) == 2
        assert result(moved) == result(undisturbed)
