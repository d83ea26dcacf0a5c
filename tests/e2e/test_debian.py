# SPDX-License-Identifier: Apache-2.0
"""An unmodified Debian program on an image made by `yado image build` is moved twice in mid-run;
its output equals an undisturbed run's. On the same image parts talk in Python and in shell."""
import pathlib
import re

from grid import Grid, wait_for

BIG = "/usr/bin/qemu-system-x86_64"  # a large real file that is on every machine that tests
JOB = ("echo started; xz -T1 -4 -v -c /in/qemu-system-x86_64 > $YADO_OUT/out.xz && "
       "xz --version && sha256sum < $YADO_OUT/out.xz")
DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs/messages.md"


def talk(g, tmp_path):
    """The document's first program in Python; another rank says its number with yado-msg."""
    first = tmp_path / "first.py"
    first.write_text(re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S)[1])
    job = g.submit("--image", "debian", "--memory", "256M", "--parts", 3, "--input", first, "--",
                   "sh", "-c", "if [ $YADO_PART = 2 ]; then yado-msg send 0 $YADO_PART;"
                   "else exec python3 /in/first.py; fi")
    g.wait_state(job, "done", timeout=200)
    assert g.log(job, 0) == "sum 3\n"


def test_compressor_is_moved_twice(tmp_path):
    with Grid(pcs=2, memory="900M") as g:
        g.yado("image", "build", "debian", "--include", "xz-utils,python3-minimal", timeout=400)
        talk(g, tmp_path)

        def submit():
            return g.submit("--image", "debian", "--memory", "256M", "--input", BIG,
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
