# SPDX-License-Identifier: Apache-2.0
"""The master's side of network drives: what was acknowledged is never lost, a cut holds it, a newer
connection or epoch ends an older one, and files that nobody needs go away. PCs are played by the
test; the storage daemons are real."""
import contextlib
import os
import random
import signal

import pytest

from api import ApiGrid, FakePC
from grid import wait_for
from nbd import WRITE, Drive, Lost, Refused, storage_daemons

MIB = 1 << 20


class Place:
    """One placement of a part with a disk."""

    def __init__(self, g, pc, key):
        self.g, self.pc, self.key = g, pc, key
        self.name = "%d.%d.%d" % key
        self.grant = pc.desired[key]["grant"]

    def open(self, cut=None, **more):
        return Drive(self.g.url, self.g.ca, self.name, self.grant, cut, **more)

    def cut(self, status=200):
        r = self.pc.data("POST", self.key, "drive/cut", grant=self.grant)
        assert r.status_code == status, r.text
        return r.json().get("cut")

    def suspend(self, cut):
        """The layer with that cut becomes durable; the part waits in its queue."""
        self.pc.vm(self.key, "suspended", reason="owner",
                   layers=[self.pc.layer(self.key, os.urandom(100), cut=cut, run_ms=1000)])
        self.pc.sync()


class World:
    def __init__(self, g):
        self.g = g
        self.pc = FakePC(g, "pc-1")
        self.pc.sync()
        self.job = g.submit_api(disk="64M", memory="128M")
        self.pc.build_golden()

    def place(self):
        key = self.pc.take(self.job)
        return Place(self.g, self.pc, key)

    @property
    def folder(self):
        return self.g.dir / f"master/drives/{self.job}.0"

    def files(self):
        return {p.name for p in self.folder.glob("*.qcow2")} if self.folder.exists() else set()

    def inodes(self):
        """A file may have two names for a while."""
        return {p.stat().st_ino for p in self.folder.glob("*.qcow2")}

    def daemons(self):
        return storage_daemons(self.folder)


@pytest.fixture
def world():
    with ApiGrid() as g:
        yield World(g)


def name_of(cut):
    return f"{cut >> 20}-{cut & 0xfffff}.qcow2"


def test_a_drive_is_an_empty_file_system_and_keeps_what_was_written(world):
    p = world.place()
    d = p.open(cut=0)
    assert d.size == 64 * MIB
    assert d.read(1024 + 56, 2) == b"\x53\xef"  # ext4
    d.write(MIB, b"a" * 65536)
    d.close()
    d = p.open()
    assert d.read(MIB, 65536) == b"a" * 65536


def test_a_cut_freezes_and_the_next_placement_stands_on_it(world):
    p = world.place()
    d = p.open(cut=0)
    d.write(MIB, b"1" * 4096)
    first = p.cut()
    d.write(MIB, b"2" * 4096)  # over the same connection
    second = p.cut()
    d.write(MIB, b"3" * 4096)
    assert 0 < first < second
    p.suspend(second)
    with pytest.raises(Lost):
        d.read(0, 512)
    q = world.place()
    assert q.key[2] > p.key[2]
    e = q.open(cut=second)
    assert e.read(MIB, 4096) == b"2" * 4096
    e.write(MIB, b"4" * 4096)
    e.close()
    # The run is given up: what follows begins at the cut again.
    assert q.open(cut=second).read(MIB, 4096) == b"2" * 4096


def test_a_cut_without_a_connection_holds_all_that_was_written(world):
    p = world.place()
    p.cut(404)  # nothing was ever opened
    d = p.open(cut=0)
    d.write(0, b"x" * 4096)
    d.close()
    wait_for("the daemon to end", lambda: not world.daemons())
    cut = p.cut()
    d = p.open()
    d.write(0, b"y" * 4096)
    p.suspend(cut)
    assert world.place().open(cut=cut).read(0, 4096) == b"x" * 4096


def test_a_newer_connection_ends_the_older_and_late_ones_are_refused(world):
    p = world.place()
    old = p.open(cut=0, attempt=10)
    old.write(0, b"o" * 4096)
    new = p.open(attempt=12)
    with pytest.raises(Lost):
        old.write(0, b"late" * 1024)
    assert new.read(0, 4096) == b"o" * 4096
    with pytest.raises(Refused) as e:
        p.open(cut=0, attempt=11)
    assert e.value.status == 409
    assert new.read(0, 4096) == b"o" * 4096  # it was not disturbed
    assert len(world.daemons()) == 1


def test_what_is_not_ours_is_refused(world):
    p = world.place()
    with pytest.raises(Refused) as e:
        p.open()  # nothing to go on with
    assert e.value.status == 404
    with pytest.raises(Refused) as e:
        p.open(cut=12345 << 20 | 1)
    assert e.value.status == 404
    with pytest.raises(Refused) as e:
        Drive(world.g.url, world.g.ca, p.name, "0" * 64, 0)
    assert e.value.status == 403
    assert p.pc.data("GET", p.key, "drive?cut=0").status_code == 426
    job = world.g.submit_api(memory="128M")
    world.pc.sync()
    plain = Place(world.g, world.pc, world.pc.take(job))
    with pytest.raises(Refused) as e:
        plain.open(cut=0)
    assert e.value.status == 404
    plain.cut(404)


def test_files_of_abandoned_runs_and_of_finished_parts_go_away(world):
    p = world.place()
    d = p.open(cut=0)
    d.write(0, b"a" * 4096)
    cut = p.cut()
    d.write(0, b"b" * 4096)
    p.suspend(cut)
    q = world.place()
    e = q.open(cut=cut)
    wait_for("the abandoned top to go", lambda: {f.split("-")[0] for f in world.files()
             if f != name_of(cut)} == {str(q.key[2])})
    e.write(0, b"c" * 4096)
    q.pc.vm(q.key, "done", exit_status=0)
    q.pc.sync()
    wait_for("the drive to go", lambda: not world.folder.exists())
    with pytest.raises(Lost):
        e.read(0, 512)
    assert not world.daemons()
    assert not list((world.g.dir / "master/drives").iterdir())  # not even its empty file system


def test_acknowledged_writes_survive_the_daemon_and_the_master(world):
    """At random moments with many writes under way, one of the two is killed. Each block holds what
    was acknowledged last, or what was sent after that."""
    seed = int(os.environ.get("YADO_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    p = world.place()
    d = p.open(cut=0)
    blocks, sent, acked = 200, {}, {}
    for life in range(8):
        under_way = {}
        kill_after = rng.randrange(20, 300)
        with contextlib.suppress(Lost):
            for i in range(1000):
                while len(under_way) >= 16:
                    handle, error = d.reply()
                    assert error == 0
                    block, value = under_way.pop(handle)
                    acked[block] = value
                block = rng.randrange(blocks)
                if any(b == block for b, _ in under_way.values()):
                    continue  # two at once on one block have no order
                value = rng.randrange(1, 1 << 32)
                sent.setdefault(block, []).append(value)
                data = value.to_bytes(4, "big") * 1024
                under_way[d.send(WRITE, MIB + block * 4096, 4096, data)] = (block, value)
                if i == kill_after and life % 3 == 2:
                    world.g.master.kill()
                elif i == kill_after:
                    (pid,) = world.daemons()
                    os.kill(pid, signal.SIGKILL)
        d.close()
        if not world.g.master.alive():
            world.g.start_master()
            world.pc.sync()
        if life == 4:
            cut, at_cut = p.cut(), dict(acked)
        d = p.open()
        for block, values in sent.items():
            have = int.from_bytes(d.read(MIB + block * 4096, 4096)[:4], "big")
            last = acked.get(block)
            later = values[values.index(last) + 1:] if last in values else values
            assert have == last or have in later or (last is None and have == 0), (life, block)
            acked[block] = have
            sent[block] = [have]
    p.suspend(cut)
    e = world.place().open(cut=cut)
    for block, value in at_cut.items():
        have = int.from_bytes(e.read(MIB + block * 4096, 4096)[:4], "big")
        assert have == value or block in sent


@pytest.mark.parametrize("killed_after", ["cut", "upload", "report", "placement", "open"])
def test_the_master_is_killed_between_cut_and_commit(world, killed_after):
    """Wherever it dies, the next placement finds the drive of the layer that counts."""
    def step(name):
        if name == killed_after:
            world.g.master.kill()
            world.g.start_master()
            world.pc.sync()
    first = world.place()
    d = first.open(cut=0)
    d.write(MIB, b"1" * 4096)
    cut = first.cut()
    d.write(MIB, b"2" * 4096)
    step("cut")
    layer = world.pc.layer(first.key, os.urandom(100), cut=cut, run_ms=1000)
    step("upload")
    world.pc.vm(first.key, "suspended", reason="owner", layers=[layer])
    world.pc.post()
    step("report")
    world.pc.sync()
    world.pc.vms.pop(first.key, None)
    wait_for("another placement", lambda: world.pc.sync() and world.pc.desired.get(
        next((k for k in world.pc.desired if k[0] == world.job and k != first.key), None)))
    step("placement")
    second = world.place()
    assert world.pc.desired[second.key]["chain"][-1]["cut"] == cut
    e = second.open(cut=cut)
    step("open")
    if killed_after == "open":
        e = second.open(cut=cut)
    assert e.read(MIB, 4096) == b"1" * 4096
    e.write(MIB, b"3" * 4096)
    later = second.cut()
    second.suspend(later)
    assert world.place().open(cut=later).read(MIB, 4096) == b"3" * 4096


def test_overlays_become_one_and_chains_stay_short(world):
    place, want, cut = world.place(), {}, 0
    for generation in range(6):
        d = place.open(cut=cut)
        for i in range(4):
            want[i] = os.urandom(4096)
            d.write(MIB * (i + 1), want[i])
            if i < 3:
                place.cut()
        cut = place.cut()
        place.suspend(cut)
        place = world.place()
    d = place.open(cut=cut)
    # The cut of its layer, its top, and the one for the next cut.
    wait_for("the chain to be short", lambda: len(world.inodes()) <= 3, 30)
    for i, data in want.items():
        assert d.read(MIB * (i + 1), 4096) == data
    d.close()
    d = place.open()
    for i, data in want.items():
        assert d.read(MIB * (i + 1), 4096) == data


def test_chains_stay_short_while_a_guest_runs_and_runs(world):
    """With a checkpoint after each write. Now and then the connection ends, and the next one begins
    with what is needed only."""
    place = world.place()
    d, want, ended = place.open(cut=0), {}, 0
    for i in range(40):
        want[i] = os.urandom(4096)
        try:
            d.write(MIB * (i + 1), want[i])
        except Lost:
            ended += 1
            d = place.open()
            # Its layer's cut, the top, and the one for the next cut.
            wait_for("the chain to be short", lambda: len(world.inodes()) <= 3, 30)
            assert len(world.files()) <= 4  # one may have two names
            d.write(MIB * (i + 1), want[i])
        cut = place.cut()
        world.pc.vm(place.key, "running", layers=[
            world.pc.layer(place.key, os.urandom(100), cut=cut, run_ms=1000 * (i + 1))])
        world.pc.sync()
        assert len(world.inodes()) <= 18
    assert ended >= 2
    for i, data in want.items():
        assert d.read(MIB * (i + 1), 4096) == data
