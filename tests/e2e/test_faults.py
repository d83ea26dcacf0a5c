# SPDX-License-Identifier: Apache-2.0
"""What a job's own misbehaviour and dying PCs get."""
import gzip
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import threading

import pytest

from grid import Grid, IMAGES, wait_for

RANDOM = ("i=0; while [ $i -lt 60 ]; do i=$((i+1)); "
          "echo $i $(head -c 4 /dev/urandom | od -An -tu4) | tee -a $YADO_OUT/all; "
          "usleep 100000; done")


def test_log_of_a_random_program_whose_pc_dies_is_of_one_run(tmp_path):
    """A PC that dies unsaved restarts its parts from golden: the log must not splice two runs."""
    with Grid(pcs=2, memory="200M", master_args=["--lease", "8s"]) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", RANDOM)
        wait_for("some numbers", lambda: len(g.log(job, 0, "out").splitlines()) > 20, 90)
        first = g.log(job, 0, "out").splitlines()
        pc = g.parts(job)[0]["pc"]
        for pid in g.pids(f"{g.dir}/{pc}"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        g.wait_state(job, "done", timeout=120)
        g.yado("results", job, tmp_path / "r")
        log = g.log(job, 0, "out")
        assert log == (tmp_path / "r/all").read_text()
        assert [int(n) for n in re.findall(r"^(\d+) ", log, re.M)] == list(range(1, 61))
        assert log.splitlines()[0] != first[0], "two runs drew the same random number"


def test_jobs_that_misbehave(tmp_path):
    with Grid(pcs=1, memory="500M") as g:
        # A shell that cannot fork ends: the one that waits for its time limit only loops.
        fork = g.submit("--memory", "128M", "--time-limit", "5s", "--", "sh", "-c",
                        "f() { f | f & sleep 1; }; (f) & while :; do :; done")
        full = g.submit("--memory", "96M", "--", "sh", "-c",
                        "head -c 50000000 /dev/zero > $YADO_OUT/big; echo head said $?; exit 3")
        oom = g.submit("--memory", "128M", "--", "awk", "BEGIN { x = 1; while (1) x = x x }")
        status = g.submit("--memory", "128M", "--", "sh", "-c", "exit 7")
        after = g.submit("--memory", "128M", "--", "echo", "still here")
        g.wait_state(fork, "failed", timeout=180)
        assert "time limit" in g.parts(fork)[0]["reason"]
        g.wait_state(full, "failed", timeout=120)
        reason = g.parts(full)[0]["reason"]
        assert "/out" in reason and "memory" in reason, reason
        g.wait_state(oom, "failed", timeout=120)
        assert "memory" in g.parts(oom)[0]["reason"]
        g.wait_state(status, "failed", timeout=120)
        assert "7" in g.parts(status)[0]["reason"]
        g.wait_state(after, "done", timeout=120)


def test_hostile_results_and_escapes(tmp_path):
    """Links and escapes in /out and in the log do no harm here."""
    with Grid(pcs=1, memory="300M") as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c",
                       "printf '\\033]0;owned\\007\\033[2J'; cd $YADO_OUT; ln -s /etc evil; "
                       "ln -s ../../../../tmp up; truncate -s 100G sparse; mkfifo pipe; echo ok > fine")
        g.wait_state(job, "done", "failed", timeout=120)
        target = tmp_path / "r"
        r = g.run("results", job, target)
        for p in [target, *target.rglob("*")] if target.exists() else []:
            assert not p.is_symlink() or str(p.resolve()).startswith(str(tmp_path)), p
        assert r.returncode in (0, 1) and "Traceback" not in r.stderr
        used = sum(p.lstat().st_blocks * 512 for p in tmp_path.rglob("*"))
        assert used < 64 << 20, used


def test_a_pc_whose_disk_is_full_loses_nothing(tmp_path):
    """What it needs does not fit there. The part goes to a PC that has room; the events name what was
    wrong."""
    with Grid(pcs=0) as g:
        small = g.dir / "pc-1"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "small", small], check=True)
        g.add_pc("pc-1")
        g.add_pc("pc-2")
        g.yado("drain", "pc-2")
        job = g.submit("--memory", "128M", "--", "echo", "here")

        def events():
            return [e["text"] for e in g.json("events")["events"]]
        wait_for("the full disk to be named", lambda: [t for t in events() if "disk full" in t], 60)
        g.yado("drain", "pc-2", "--undo")
        g.wait_state(job, "done", timeout=60)
        assert g.log(job, 0, "out") == "here\n"


@pytest.mark.parametrize("version, says", [
    (None, "install qemu-system-x86"),
    ("5.2.0 (Debian 1:5.2+dfsg-11)", "is version 5.2, which is too old: 7.2 or newer is needed")])
def test_a_pc_whose_qemu_is_missing_or_too_old(tmp_path, version, says):
    """Doctor and the agent's log name it; the PC offers nothing, and jobs run on the others."""
    qemu = tmp_path / "qemu"
    if version:
        qemu.write_text(f"#!/bin/sh\necho QEMU emulator version '{version}'\n")
        qemu.chmod(0o755)
    with Grid(pcs=0, memory="300M", agent_args=["--qemu", str(qemu)]) as g:
        bad = g.add_pc("bad")
        doctor = g.run("doctor", "--json", "--qemu", qemu, "--state", g.dir / "bad")
        check = {c["name"]: c for c in json.loads(doctor.stdout)["checks"]}["qemu"]
        assert doctor.returncode == 1 and check["status"] == "fail"
        assert says in check["text"] and str(qemu) in check["text"] and check["remedy"]
        wait_for("the agent to say so", lambda: says in bad.text(), 20)
        g.agent_args = []
        g.add_pc("good", builder=True)
        job = g.submit("--memory", "128M", "--", "echo", "fine")
        g.wait_state(job, "done")
        pcs = {p["name"]: p for p in g.json("pcs")["pcs"]}
        assert not pcs["bad"]["available"] and pcs["bad"]["reason"] == "class not proven"


class Service(socketserver.TCPServer):
    """Counts who comes to an address of this PC."""

    def __init__(self, address):
        self.visits = 0
        super().__init__((address, 0), socketserver.BaseRequestHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def verify_request(self, request, client_address):
        self.visits += 1
        return False


def own_address():
    """An address of this PC that is not loopback, or None; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("192.0.2.1", 9))
            return s.getsockname()[0]
        except OSError:
            return None


def test_nat_reaches_no_loopback_of_the_pc():
    """What listens only on 127.0.0.1 trusts whoever comes; a guest's gateway is that address."""
    private, address = Service("127.0.0.1"), own_address()
    public = Service(address) if address else None
    with Grid(pcs=1, memory="300M") as g:
        if "loopback addresses" in g.agents["pc-1"].text():
            pytest.skip("needs root and control groups of version 2")
        visit = f"nc -w 5 10.0.2.2 {private.server_address[1]} </dev/null; "
        if public:
            visit += f"nc -w 5 {address} {public.server_address[1]} </dev/null; "
        job = g.submit("--memory", "128M", "--network", "nat", "--", "sh", "-c", visit + "echo end")
        g.wait_state(job, "done")
        assert g.log(job, 0, "out") == "end\n"
    assert private.visits == 0
    assert not public or public.visits == 1


# In the place of init: a guest of little memory never says a word; in one of more, yado-guest hangs
# as soon as its job asks for that.
BAD_INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
memory=$(awk '/MemTotal/ {print $2}' /proc/meminfo)
umount /proc
[ $memory -gt 120000 ] || exec sleep 1000000
/guest &
while ! [ -e /work/hang ]; do usleep 200000; done
kill -STOP $!
sleep 1000000
"""


def bad_images(folder):
    """The guest's images with BAD_INIT: what stands later in an initrd replaces what was before."""
    initrd = (pathlib.Path(IMAGES) / "initrd").read_bytes()
    tree = folder / "tree"
    tree.mkdir(parents=True)
    subprocess.run(["cpio", "-id", "--quiet", "init"], cwd=tree, check=True,
                   input=gzip.decompress(initrd))
    (tree / "init").rename(tree / "guest")
    (tree / "init").write_text(BAD_INIT)
    (tree / "init").chmod(0o755)
    more = subprocess.run(["cpio", "-o", "--quiet", "-H", "newc"], cwd=tree, check=True,
                          input=b"guest\ninit\n", capture_output=True).stdout
    (folder / "initrd").write_bytes(initrd + gzip.compress(more))
    shutil.copy(pathlib.Path(IMAGES) / "vmlinuz", folder)
    return folder


def test_guests_that_never_answer(tmp_path):
    """Given up after --guest-silence of their running time, by name; the grid's failures, not the job's;
    the PC is good for other jobs, and in the end the job is held. (All tries: YADO_SOAK.)"""
    with Grid(pcs=1, memory="500M", master_args=["--images", str(bad_images(tmp_path / "i"))],
              agent_args=["--guest-silence", "10s"], fresh=True) as g:
        def events(job=None):
            return [e["text"] for e in g.json("events")["events"] if e.get("job") == job]

        silent = g.submit("--memory", "96M", "--", "true")
        hangs = g.submit("--memory", "192M", "--", "sh", "-c",
                         "echo alive; touch /work/hang; while :; do sleep 1; echo alive; done")
        # A build that never answers: nobody's job failed, and nothing else waits for it.
        wait_for("the build to be given up", lambda: [
            t for t in events() if "golden layer: guest does not answer" in t], 200)
        assert g.parts(silent)[0]["state"] == "queued"
        wait_for("the part to be given up", lambda: [
            t for t in events(hangs) if "guest does not answer" in t], 200)
        good = g.submit("--memory", "192M", "--", "echo", "good")
        g.wait_state(good, "done")
        assert g.log(hangs, 0, "out") in ("", "alive\n")  # of the run that counts
        if os.environ.get("YADO_SOAK"):
            g.wait_state(silent, "held", timeout=200)
            assert "guest does not answer" in g.parts(silent)[0]["reason"]
            g.wait_state(hangs, "held", timeout=600)
            assert "guest does not answer" in g.parts(hangs)[0]["reason"]
        for job in silent, hangs:
            g.yado("cancel", job)
            g.wait_state(job, "cancelled")
        # A build that is under way takes its time to be given up, and nobody asks for another.
        wait_for("no guest to be left", lambda: not g.pids("qemu-system"), 100)
