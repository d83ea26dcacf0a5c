# SPDX-License-Identifier: Apache-2.0
"""A real guest with a network drive: whatever happens to PCs, processes and the master, its file
system is what its program wrote, no more and no less than its memory knows of.

Seed: YADO_SEED, printed first."""
import contextlib
import hashlib
import os
import random
import signal
import time

import pytest

from counter import ticks
from grid import Grid, wait_for
from nbd import storage_daemons

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
    usleep 100000
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


def wait_steps(g, job, more=5):
    """The writer may end meanwhile."""
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
    return wait_for("the storage daemon", lambda: storage_daemons(g.dir / f"master/drives/{job}.0"), 30)[0]


def signal_pc(g, pc, number):
    for pid in g.pids(str(g.dir / pc)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Fate:
    """What happens to a job on two PCs; it goes on on the other one where it has to."""

    def __init__(self, g, job, rng):
        self.g, self.job, self.rng = g, job, rng

    @property
    def pc(self):
        return place(self.g, self.job)["pc"]

    def move(self):
        """A checkpoint while it runs, then the rest."""
        pc = self.pc
        self.g.yado("move", self.job, "pc-1" if pc == "pc-2" else "pc-2")
        running_elsewhere(self.g, self.job, pc)

    def owner(self):
        pc = self.pc
        self.g.owner(pc, "leave")
        running_elsewhere(self.g, self.job, pc)
        self.g.owner(pc, "auto")

    def owner_while_writes_hang(self):
        pc = self.pc
        os.kill(storage_daemon(self.g, self.job), signal.SIGSTOP)
        time.sleep(1)  # a write hangs by then
        self.g.owner(pc, "leave")
        wait_for("his memory to be given back",
                 lambda: not self.g.pids(f"guest={self.g.dir / pc}/"), 10)
        running_elsewhere(self.g, self.job, pc)
        assert self.g.moves(self.job)[-1]["stop_ms"] <= 100
        self.g.owner(pc, "auto")

    def saved_while_the_master_is_away(self):
        """And then the power is cut: the last layer is there, its cut comes later."""
        pc = self.pc
        self.g.master.kill()
        self.g.owner(pc, "leave")
        wait_for("the layer", lambda: list((self.g.dir / pc / "vm").glob("*/saved.json")), 20)
        signal_pc(self.g, pc, signal.SIGKILL)
        self.g.agents[pc].kill()
        self.g.start_master()
        seen = len(self.g.moves(self.job))
        self.g.agents[pc].start()
        wait_for("the move", lambda: len(self.g.moves(self.job)) > seen, 90)
        assert self.g.moves(self.job)[-1]["reason"] == "owner"
        self.g.owner(pc, "auto")

    def power_cut(self):
        pc = self.pc
        signal_pc(self.g, pc, signal.SIGKILL)
        self.g.agents[pc].kill()
        running_elsewhere(self.g, self.job, pc)
        self.g.agents[pc].start()

    def late_pc(self):
        """It stands still, as one that sleeps, and then its guest wakes up with writes under way."""
        pc = self.pc
        signal_pc(self.g, pc, signal.SIGSTOP)
        running_elsewhere(self.g, self.job, pc)
        wait_steps(self.g, self.job)
        signal_pc(self.g, pc, signal.SIGCONT)

    def master_killed(self):
        time.sleep(self.rng.random())  # the moment is what is random
        self.g.master.kill()
        self.g.start_master()


def test_a_file_system_through_all_that_may_happen(tmp_path):
    """In a random order; chains of overlays stay short all the while."""
    print("seed", SEED)
    rng = random.Random(SEED)
    steps, longest = 100, 0
    with Grid(pcs=2, memory="300M", master_args=LEASE) as g:
        job = submit(g, steps, "--checkpoint", "1s")
        g.wait_state(job, "running")
        fate = Fate(g, job, rng)
        fates = [fate.move, fate.owner, fate.owner_while_writes_hang, fate.power_cut, fate.late_pc,
                 fate.saved_while_the_master_is_away, fate.master_killed, fate.master_killed]
        for what in rng.sample(fates, len(fates)):
            wait_steps(g, job, 3)
            wait_for("it to run", lambda: fate.pc and place(g, job)["state"] == "running", 60)
            longest = max(longest, len(overlays(g, job)))
            print(what.__name__, fate.pc, place(g, job)["layers"], "layers", len(ticks(g, job)), "ticks")
            what()
        assert_result(g, job, steps, tmp_path)
        # Layers above golden, what the placement cut since, its top, and one for the next cut.
        assert 2 <= longest <= 16


def test_an_owner_returns_while_writes_hang_under_qemu_10(tmp_path):
    if not os.environ.get("YADO_QEMU10"):
        pytest.skip("no QEMU 10 here")
    with Grid(pcs=2, memory="300M", master_args=LEASE,
              agent_args=["--qemu", os.environ["YADO_QEMU10"]], fresh=True) as g:
        job = submit(g, 20)
        g.wait_state(job, "running")
        wait_steps(g, job)
        Fate(g, job, None).owner_while_writes_hang()
        assert_result(g, job, 20, tmp_path)
