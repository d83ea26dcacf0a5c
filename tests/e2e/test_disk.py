# SPDX-License-Identifier: Apache-2.0
"""A real guest with a network drive: whatever happens to PCs, processes and the master, its file
system is what its program wrote, no more and no less than its memory knows of.

Seed: YADO_SEED, printed first."""
import contextlib
import hashlib
import os
import pathlib
import random
import re
import signal
import time

import pytest

from grid import Grid, wait_for

SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))
LEASE = ["--lease", "8s"]
DISK = "64M"

# Files are written, rewritten, renamed and removed; the shell remembers their sums and compares an
# older one with each step. What it leaves in /out is the sums of all files at the end.
WRITER = r"""
cd /disk || exit 9
mkdir d && touch sums || exit 8
i=0
while [ $i -lt $STEPS ]; do
    i=$((i + 1))
    seq $i 7 $((i + 30000)) > d/f$i || exit 7
    [ $((i % 3)) = 0 ] && sync
    sum=$(md5sum < d/f$i)
    eval "s$i='$sum'"
    echo "$i $sum" >> sums || exit 6
    old=$((i * 5 / 7))
    if [ $old -gt 0 ] && [ -e d/f$old ]; then
        eval "want=\$s$old"
        [ "$(md5sum < d/f$old)" = "$want" ] || { echo "f$old is damaged"; exit 5; }
    fi
    [ $((i % 4)) = 0 ] && rm -f d/f$((i / 2))
    [ $((i % 5)) = 0 ] && mv d/f$i d/g$i
    echo tick $i
    usleep 20000
done
sync
for f in $(ls d); do echo "$f $(md5sum < d/$f)"; done > /out/files
cp sums /out/sums
"""


def expected(steps):
    """What an undisturbed run leaves in /out."""
    files, sums = {}, []
    for i in range(1, steps + 1):
        data = "".join(f"{n}\n" for n in range(i, i + 30001, 7)).encode()
        digest = hashlib.md5(data).hexdigest()
        files[f"f{i}"] = digest
        sums.append(f"{i} {digest}  -")
        if i % 4 == 0:
            files.pop(f"f{i // 2}", None)
        if i % 5 == 0:
            files[f"g{i}"] = files.pop(f"f{i}")
    listing = "".join(f"{f} {files[f]}  -\n" for f in sorted(files))
    return listing, "\n".join(sums) + "\n"


def submit(g, steps, *more):
    return g.submit("--memory", "128M", "--disk", DISK, "--env", f"STEPS={steps}", *more, "--", "sh",
                    "-c", WRITER)


def ticks(g, job):
    return [int(n) for n in re.findall(r"^tick (\d+)$", g.log(job), re.M)]


def wait_ticks(g, job, more=5):
    seen = len(ticks(g, job))
    wait_for("ticks", lambda: len(ticks(g, job)) >= seen + more or
             g.parts(job)[0]["state"] not in ("running", "suspended", "resuming"), 60)


def assert_result(g, job, steps, tmp_path):
    g.wait_state(job, "done", "failed", timeout=120)
    assert g.parts(job)[0]["state"] == "done", g.log(job)
    assert ticks(g, job) == list(range(1, steps + 1))
    g.yado("results", job, tmp_path / "r")
    listing, sums = expected(steps)
    assert (tmp_path / "r/sums").read_text() == sums
    assert (tmp_path / "r/files").read_text() == listing
    # Its space is given back.
    wait_for("the drive to be gone", lambda: not list((g.dir / "master/drives").iterdir()), 20)


def place(g, job):
    return g.parts(job)[0]


def running_elsewhere(g, job, pc):
    def check():
        p = place(g, job)
        return p["state"] == "running" and p["pc"] != pc and p["pc"]
    return wait_for("the job on another PC", check, 90)


def overlays(g, job):
    return list((g.dir / f"master/drives/{job}.0").glob("*.qcow2"))


def storage_daemon(g, job):
    """The process that writes the job's drive."""
    folder = g.dir / f"master/drives/{job}.0"

    def check():
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(p / "cwd") == str(folder) and \
                        b"qemu-storage-daemon" in (p / "cmdline").read_bytes():
                    return int(p.name)
    return wait_for("the storage daemon", check, 30)


def signal_pc(g, pc, number):
    for pid in g.pids(str(g.dir / pc)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_a_file_system_is_written_and_read(tmp_path):
    with Grid(pcs=1, memory="300M") as g:
        assert_result(g, submit(g, 20), 20, tmp_path)


def test_moves_checkpoints_and_power_cuts(tmp_path):
    """Each of them twice, at random moments; chains of overlays stay short all the while."""
    print("seed", SEED)
    rng = random.Random(SEED)
    steps = 60
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = submit(g, steps, "--checkpoint", "2s")
        g.wait_state(job, "running")
        longest = 0
        for what in rng.sample(["move", "owner", "power", "power"], 4):
            wait_ticks(g, job, 3 + rng.randrange(5))
            longest = max(longest, len(overlays(g, job)))
            pc = place(g, job)["pc"]
            print(what, pc, place(g, job)["layers"], len(ticks(g, job)))
            if what == "move":
                g.yado("move", job, "pc-1" if pc == "pc-2" else "pc-2")
            elif what == "owner":
                g.owner(pc, "leave")
            else:
                signal_pc(g, pc, signal.SIGKILL)
                g.agents[pc].kill()
            running_elsewhere(g, job, pc)
            if what == "owner":
                g.owner(pc, "auto")
            elif what == "power":
                g.agents[pc].start()
        assert_result(g, job, steps, tmp_path)
        # Layers above golden, what the placement cut since, its top, and one for the next cut.
        assert 2 <= longest <= 12


def test_a_master_that_dies_loses_nothing(tmp_path):
    """Killed while the guest writes and is saved; the guest stands for so long, and no more."""
    print("seed", SEED)
    rng = random.Random(SEED)
    steps = 40
    with Grid(pcs=1, memory="300M", master_args=LEASE) as g:
        job = submit(g, steps, "--checkpoint", "1s")
        g.wait_state(job, "running")
        for _ in range(4):
            wait_ticks(g, job, 3)
            time.sleep(rng.random())  # the moment is what is random
            g.master.kill()
            g.start_master()
        assert_result(g, job, steps, tmp_path)


@pytest.mark.parametrize("qemu", ["7.2", "10"])
def test_an_owner_returns_while_writes_hang(tmp_path, qemu):
    args = []
    if qemu == "10":
        if not os.environ.get("YADO_QEMU10"):
            pytest.skip("no QEMU 10 (YADO_QEMU10)")
        args = ["--qemu", os.environ["YADO_QEMU10"]]
    steps = 25
    with Grid(pcs=2, memory="300M", master_args=LEASE, agent_args=args) as g:
        job = submit(g, steps)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        pc = place(g, job)["pc"]
        os.kill(storage_daemon(g, job), signal.SIGSTOP)
        seen = len(ticks(g, job))
        time.sleep(1)  # a write hangs by then
        g.owner(pc, "leave")
        wait_for("his memory to be given back", lambda: not g.pids(str(g.dir / pc), "qemu"), 10)
        assert len(ticks(g, job)) <= seen + 20
        running_elsewhere(g, job, pc)
        assert g.moves(job)[0]["stop_ms"] <= 100
        assert_result(g, job, steps, tmp_path)


def test_a_pc_that_comes_back_late_writes_nothing(tmp_path):
    """It stood still, as one that slept, while its part went on elsewhere; its guest wakes up with
    writes under way."""
    steps = 40
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = submit(g, steps, "--checkpoint", "1s")
        g.wait_state(job, "running")
        wait_for("a checkpoint", lambda: place(g, job)["layers"], 30)
        wait_ticks(g, job)
        pc = place(g, job)["pc"]
        signal_pc(g, pc, signal.SIGSTOP)
        running_elsewhere(g, job, pc)
        wait_ticks(g, job)
        signal_pc(g, pc, signal.SIGCONT)
        assert_result(g, job, steps, tmp_path)
