# SPDX-License-Identifier: Apache-2.0
"""Guests that were taken over and say on the line to the host what no yado-guest says (hostile.c):
their parts fail with a reason that people understand or get nowhere, supervisors, agents and the
master live on with little memory, and other jobs of the grid do not notice."""
import pathlib
import re
import shutil
import subprocess
import time

import pytest

from grid import IMAGES, ROOT, Grid, wait_for
from test_mail import submit, undisturbed

WRAPPED = ("link_open", "guest_state_put", "program_start")
# What the initrd's init is built of, as images/build-tiny does.
SOURCES = ("src/guest/*.c", "src/libyado/desk.c", "src/libyado/desk_socket.c", "src/wire/guest_frame.c",
           "src/wire/guest_mail.c", "src/wire/mail.c", "src/base/buf.c", "src/base/crc32c.c",
           "src/base/cursor.c", "src/base/log.c", "src/base/str.c")
FAILS = {"begins-late": "its mail has a gap", "nobody": "it sent to a part that does not exist",
         "reads-ahead": "it asked for mail that is not kept, or does not exist"}
GOES_ON = ("gap", "flood", "oversized", "reads-without-end", "blobs", "rubbish")
RESIDENT_MB = 100  # of a supervisor; a sanitizer's share included, but for what it keeps freed
SECONDS = 10


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The guest's kernel, and its initrd with another init behind, which counts."""
    folder = tmp_path_factory.mktemp("images")
    init = folder / "init"
    files = [str(f) for pattern in SOURCES for f in sorted(ROOT.glob(pattern))]
    subprocess.run(["musl-gcc", "-static", "-s", "-Os", "-std=gnu17", "-D_GNU_SOURCE", "-fno-strict-aliasing",
                    "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu",
                    f"-I{ROOT}/src", f"-I{ROOT}/src/libyado", "-o", init, *files,
                    ROOT / "tests/e2e/hostile.c", *(f"-Wl,--wrap={name}" for name in WRAPPED)],
                   check=True)
    shutil.copy(pathlib.Path(IMAGES) / "vmlinuz", folder)
    more = subprocess.run("echo init | cpio --quiet -o -H newc -R 0:0 | gzip -n", shell=True, check=True,
                          cwd=folder, capture_output=True).stdout
    (folder / "initrd").write_bytes((pathlib.Path(IMAGES) / "initrd").read_bytes() + more)
    return folder


class HostileGrid(Grid):
    def __init__(self, images, **kw):
        super().__init__(fresh=True, **kw)
        self.images = images

    def daemon_env(self, name):
        asan = self.env["ASAN_OPTIONS"] + ":quarantine_size_mb=4:thread_local_quarantine_size_kb=64"
        return dict(self.env, YADO_IMAGES=str(self.images), ASAN_OPTIONS=asan)

    def hostile(self, *words):
        return self.submit("--memory", "96M", "--", "hostile", *words)

    def taken_over(self, job):
        def check():
            return any("taken over" in p.read_text(errors="replace")
                       for p in self.dir.glob(f"pc-*/vm/{job}.0.*/console.log"))
        wait_for(f"the guest of job {job} to be taken over", check, 120)

    def supervisor(self, job):
        return self.pids(" supervisor ", f"/{job}.0.")[0]


def resident_mb(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1]) / 1024


def state(g, job):
    return g.parts(job)[0]["state"]


def test_what_a_guest_must_not_say_of_mail_fails_its_part(images):
    with HostileGrid(images, pcs=2, memory="300M", agent_args=["--guest-silence", "8s"]) as g:
        honest = submit(g, 2, "ring", "--laps", 100, "--pause", 50, options=("--memory", "96M"))
        jobs = {what: g.hostile(what) for what in FAILS}
        mute = g.hostile("gap", "and answers no SYNC")
        for what, job in jobs.items():
            wait_for(f"{what} to fail", lambda: state(g, job) == "failed", 120)
            assert g.parts(job)[0]["reason"] == FAILS[what]
        wait_for("the mute one to be given up", lambda: re.search(
            rf"job {mute}.0: .*guest does not answer", g.yado("events")), 120)
        g.yado("cancel", mute)
        g.wait_state(honest, "done")
        assert g.log(honest, 0, "out").startswith("ring: ranks=2 laps=100 ")
        assert g.log(honest, 0, "err") == ""


@pytest.mark.parametrize("words", [GOES_ON[:3], GOES_ON[3:]])
def test_a_guest_that_talks_without_end_costs_little(images, words):
    with HostileGrid(images, pcs=3, memory="300M", master_args=["--mailbox", "3M"]) as g:
        jobs = {what: g.hostile(what) for what in words}
        for job in jobs.values():
            g.taken_over(job)
        pids = {what: g.supervisor(job) for what, job in jobs.items()}
        honest = submit(g, 2, "heat", "--n", 32, "--steps", 20, options=("--memory", "96M"))
        time.sleep(SECONDS)
        for what, job in jobs.items():
            assert state(g, job) == "running", what
            assert g.supervisor(job) == pids[what]
            print(what, round(resident_mb(pids[what])), "MB")
            assert resident_mb(pids[what]) < RESIDENT_MB
        g.wait_state(honest, "done")
        assert g.log(honest, 0, "out").splitlines()[-1] == undisturbed(2, "heat", "--n", 32, "--steps", 20)
        for job in jobs.values():
            g.yado("cancel", job)
        wait_for("the guests to be gone", lambda: not g.pids("qemu-system"), 60)


def test_a_guest_with_another_jobs_memory(images):
    """What it says it holds is not this job's: nothing of it is taken. Tried anew it does the same,
    until the job is held."""
    with HostileGrid(images, pcs=2, memory="300M") as g:
        job = g.hostile("foreign")
        wait_for("the job to be held", lambda: g.job(job)["state"] == "held", 120)
        assert "guest broken" in g.yado("events")
        # What it said while it told the truth, and the same in each of its lives.
        assert [m["received"] for m in g.json("mail", job)["mailboxes"]] == [1]
        honest = g.submit("--memory", "96M", "--", "echo", "well")
        g.wait_state(honest, "done")
        assert g.log(honest) == "well\n"
