# SPDX-License-Identifier: Apache-2.0
"""One supervisor with a real QEMU guest, its agent and its master played by the test: a golden
build, a part from golden, a move to another folder, faults on every side."""
import contextlib
import ctypes
import hashlib
import io
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import tempfile
import time

import pytest

import layer_file
from blobserver import BlobServer
from counter import COUNTER, check_whole, ticks_in
from mail_stand_in import Mail
from grid import IMAGES, SANITIZER, YADO, wait_for
from pressure import HOLDER, page_out
from traced import traced

MACHINE = {"machine": "pc-i440fx-7.2", "cpu": "Nehalem", "accel": "tcg"}
MEMORY = 128 << 20
FAST = COUNTER.replace("50000", "20000")


NEEDS_FUSE = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")


def boottime_ms():
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)


def qemu_version():
    text = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True).stdout
    a, b, c = text.split("version ")[1].split()[0].split(".")[:3]
    return int(a) * 10000 + int(b) * 100 + int(c)


class Vm:
    """A supervisor as its agent sees it."""

    def __init__(self, world, name, desired, wrap=(), **config_more):
        self.world = world
        self.dir = world.dir / name
        self.dir.mkdir(mode=0o711, exist_ok=True)
        self.report, self.states = {}, []
        self.sock, self.buffer, self.pinged, self.pings = None, b"", 0, True
        config = {"desired": desired, "url": world.server.url.split("/v1/")[0],
                  "ca_file": str(world.server.ca_file), "cache_dir": str(world.dir / "cache"),
                  "qemu": None, "class": dict(MACHINE, qemu_version=world.version), "uid": -1,
                  "gid": -1, "pager_uid": -1, "pager_gid": -1, "cgroup": None, "idle_priority": False,
                  **config_more}
        (self.dir / "config.json").write_text(json.dumps(config))
        self.wrap = list(wrap)
        self.start()

    def start(self):
        env = dict(os.environ, **{k: v.format(dir=self.world.dir) for k, v in SANITIZER.items()})
        self.proc = subprocess.Popen([*self.wrap, YADO, "supervisor", str(self.dir)], stdin=subprocess.DEVNULL,
                                     stdout=open(self.dir / "supervisor.log", "ab"),
                                     stderr=subprocess.STDOUT, env=env, start_new_session=True)
        self.world.vms.append(self)
        self.connect()

    def connect(self):
        def dial():
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(str(self.dir / "ctl"))
                return s
            except OSError:
                s.close()
                assert self.proc.poll() is None, self.text()
        self.sock = wait_for("the supervisor's socket", dial, 15, 0.01)
        self.sock.setblocking(False)

    def hang_up(self):
        self.sock.close()
        self.sock = None

    def say(self, cmd, **more):
        self.sock.sendall(json.dumps({"cmd": cmd, **more}).encode() + b"\n")

    def lease(self, lease_ms=60000, upload=True, **more):
        self.say("lease", until_ms=boottime_ms() + lease_ms, upload=upload, **more)

    def run(self, lease_ms=60000, **more):
        self.lease(lease_ms, **more)
        self.say("cont")

    def suspend(self, reason="owner"):
        self.say("suspend", reason=reason, event_us=time.monotonic_ns() // 1000)

    def poll(self):
        """Reads reports, pings; returns the state."""
        if self.sock:
            if self.pings and time.monotonic() - self.pinged > 0.4:
                self.say("ping")
                self.pinged = time.monotonic()
            try:
                self.buffer += self.sock.recv(65536)
            except BlockingIOError:
                pass
            *lines, self.buffer = self.buffer.split(b"\n")
            for line in lines:
                self.report = json.loads(line)
                self.states.append(self.report["state"])
        return self.report.get("state")

    def wait(self, *states, timeout=60):
        def check():
            state = self.poll()
            assert state in states or state != "failed", f"{self.report}\n{self.text()}"
            return state in states
        wait_for(f"{states}, not {self.report}", check, timeout, 0.005)
        return self.report

    def wait_until(self, what, check, timeout=60):
        def both():
            self.poll()
            return check()
        return wait_for(what, both, timeout, 0.005)

    def text(self):
        return "".join(f"== {p}\n{p.read_text(errors='replace')[-3000:]}"
                       for p in sorted(self.dir.glob("*.log")))

    def processes(self):
        """Those below the supervisor."""
        out = subprocess.run(["ps", "-o", "pid=,ppid=,comm=,args=", "-e"], capture_output=True,
                             text=True).stdout
        return {line.split()[2]: int(line.split()[0]) for line in out.splitlines()
                if int(line.split()[1]) == self.proc.pid}

    def drop(self):
        children = self.processes()
        self.say("drop")
        assert self.proc.wait(10) == 0
        for pid in children.values():
            wait_for("the children to end", lambda: not os.path.exists(f"/proc/{pid}"), 5)
        assert str(self.dir) not in open("/proc/self/mounts").read()
        assert not (self.dir / "memory").exists()


class World:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="yado-supervisor-", dir="/var/tmp"))
        os.chmod(self.dir, 0o711)
        self.server = BlobServer(self.dir).start()
        self.version = qemu_version()
        self.vms = []
        image = {}
        for name, path in (("kernel", "vmlinuz"), ("initrd", "initrd.img"), ("root", "root.erofs")):
            data = b""
            if name != "root":
                data = next(p for p in pathlib.Path(IMAGES).iterdir()
                            if p.name.startswith(path.split(".")[0])).read_bytes()
            image[name] = {"digest": self.server.add(data) if data else "", "size": len(data)}
        self.image = dict(image, name="tiny")
        self.golden = None

    def desired(self, job=1, argv=None, golden=None, chain=(), have=0, **spec):
        none = {"digest": "", "size": 0, "output_offset": 0, "run_ms": 0,
                "class": dict(machine="", cpu="", accel="", qemu_version=0)}
        d = {"job": job, "part": 0, "epoch": 1, "want": "run", "reason": "",
             "grant": self.server.grant, "image": self.image, "golden": golden or none,
             "chain": list(chain), "output_have": have, "memory_bytes": MEMORY, "cpus": 1}
        self.server.prefix = f"/v1/vm/{job}.0.1/"
        if job:
            d["spec"] = {"name": "test", "image": "tiny", "command": argv, "parts": 1,
                         "memory": MEMORY, **spec}
        return d

    def close(self):
        for vm in self.vms:
            if vm.proc.poll() is None:
                vm.proc.kill()
                vm.proc.wait()
        self.server.release.set()
        self.server.stop()
        reports = [p.read_text(errors="replace") for p in self.dir.glob("sanitizer*")]
        for vm in self.vms:
            print(vm.text())
        for line in open("/proc/self/mounts"):
            if line.split()[1].startswith(str(self.dir)):
                subprocess.run(["umount", "-l", line.split()[1]])
        if not os.environ.get("YADO_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        assert not reports, reports

    def text(self, stream=1):
        out, data = b"", self.server.output
        while data:
            kind, n = struct.unpack(">BI", data[:5])
            assert kind in (1, 2) and 0 < n <= 32768 and len(data) >= 5 + n
            out += data[5:5 + n] if kind == stream else b""
            data = data[5 + n:]
        return out.decode()

    def ticks(self):
        return ticks_in(self.text())


pytestmark = pytest.mark.xdist_group("supervisor")


@pytest.fixture(scope="module")
def golden_world():
    w = World()
    try:
        vm = Vm(w, "0.0.1", w.desired(job=0))
        vm.run()
        report = vm.wait("done", timeout=90)
        assert report["layers"][0]["digest"] in w.server.blobs
        assert len(w.server.blobs[report["layers"][0]["digest"]]) == report["layers"][0]["size"]
        assert report["layers"][0]["class"] == dict(MACHINE, qemu_version=w.version)
        assert "suspended" not in vm.states
        vm.drop()
        w.golden = report["layers"][0]
        yield w
    finally:
        w.close()


@pytest.fixture
def world(golden_world):
    w = golden_world
    w.server.output = b""
    w.server.mail = Mail()
    w.server.output_status, w.server.blob_status, w.server.cuts = 200, None, []
    w.server.follow_cut, w.server.followed = None, []
    w.server.stall.clear()
    w.server.hang_from.clear()
    if not w.server.server:
        w.server.start()
    w.vms.clear()
    yield w
    for vm in w.vms:
        if vm.proc.poll() is None:
            vm.proc.kill()
            vm.proc.wait()
        print(vm.text())
        shutil.rmtree(vm.dir, ignore_errors=True)


def start(world, name="1.0.1", argv=None, **more):
    vm = Vm(world, name, world.desired(argv=argv or ["sh", "-c", FAST], golden=world.golden, **more))
    vm.run()
    return vm


def test_a_part_from_golden_to_its_result(world):
    begin = time.monotonic()
    vm = start(world, argv=["sh", "-c", "echo hello $YADO_PART of $YADO_PARTS; echo oops >&2; "
                                        "echo result > $YADO_OUT/answer; exit 3"])
    vm.wait_until("the first output", lambda: world.text())
    print(f"start to first output {time.monotonic() - begin:.2f} s")
    report = vm.wait("done")
    assert (world.text(1), world.text(2)) == ("hello 0 of 1\n", "oops\n")
    assert os.waitstatus_to_exitcode(report["exit_status"]) == 3
    assert report["output_bytes"] == len(world.server.output)
    tar = world.server.blobs[report["result"]]
    assert len(tar) == report["result_bytes"]
    with tarfile.open(fileobj=io.BytesIO(tar)) as t:
        assert [m.name.removeprefix("./") for m in t.getmembers() if m.isfile()] == ["answer"]
        assert t.extractfile([m for m in t.getmembers() if m.isfile()][0]).read() == b"result\n"
    assert report["peak_bytes"] > 0 and report["resume_ms"] > 0
    assert not vm.processes()  # memory is given back before the result is told
    vm.drop()


def test_inputs_by_the_drive(world):
    a = os.urandom(700000)
    digest = world.server.add(a)
    vm = start(world, argv=["sh", "-c", "sha256sum < $YADO_IN/d/a.bin"],
               inputs=[{"path": "d/a.bin", "digest": digest, "size": len(a), "mode": 0o644,
                        "tar": False}])
    vm.wait("done")
    assert world.text().split()[0] == hashlib.sha256(a).hexdigest()
    vm.drop()


def test_a_counter_over_moves(world):
    chain, have = [], 0
    for i in range(3):
        vm = start(world, name=f"1.0.{i + 1}", chain=chain, have=have)
        seen = len(world.ticks())
        vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 10)
        vm.suspend()
        report = vm.wait("suspended")
        way = [s for s in vm.states if s in ("saving", "saved", "uploading", "suspended")]
        # Where the master has the layer before it is durable here, it never is here.
        way = [b for a, b in zip([None, *way], way) if a != b]  # one may be told twice
        assert way in (["saving", "saved", "uploading", "suspended"], ["saving", "suspended"]), way
        assert report["reason"] == "owner" and report["stop_ms"] < 500
        assert not vm.processes()
        assert not (vm.dir / "memory").exists()
        print({k: report[k] for k in ("stop_ms", "save_ms", "upload_ms", "resume_ms")},
              report["layers"][0]["size"])
        chain, have = chain + report["layers"], len(world.server.output)
        assert len(chain) == i + 1 and have >= chain[-1]["output_offset"] - (1 << 20)
        assert chain[-1]["parent"] == (chain[-2] if i else world.golden)["digest"]
        vm.drop()
    check_whole(world.ticks())


def checkpoint(vm, serial, **more):
    """One by hand, until it is durable; the layer."""
    vm.lease(checkpoint=serial, **more)
    vm.wait_until(f"checkpoint {serial}", lambda: vm.report.get("checkpoint") == serial)
    return vm.report["layers"][-1]


def test_checkpoints_while_it_runs_and_going_back(world):
    vm = start(world, name="1.0.1")
    vm.wait_until("ticks", lambda: len(world.ticks()) > 10)
    first = checkpoint(vm, 1)
    assert first["parent"] == world.golden["digest"] and vm.report["state"] == "running"
    assert first["digest"] in world.server.blobs and vm.report["pause_ms"] < 2000
    seen = len(world.ticks())
    vm.wait_until("more ticks", lambda: len(world.ticks()) > seen + 10)
    # Not before the one before is recorded; then what has changed since.
    vm.lease(checkpoint=2)
    vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 20)
    assert [l["digest"] for l in vm.report["layers"]] == [first["digest"]]
    second = checkpoint(vm, 2, recorded=first["digest"])
    assert second["parent"] == first["digest"] and second["size"] < first["size"]
    assert [l["digest"] for l in vm.report["layers"]] == [second["digest"]]
    assert not list(vm.dir.glob(first["digest"] + "*")), "it is the master's now"
    assert vm.states.count("paused") == 0
    # The PC dies. What came after the layer is taken back, and comes again.
    seen = len(world.ticks())
    vm.wait_until("ticks that are lost", lambda: len(world.ticks()) > seen + 5)
    vm.proc.kill()
    vm.proc.wait()
    lost = world.ticks()
    world.server.output = world.server.output[:second["output_offset"]]
    vm = start(world, name="1.0.2", chain=[first, second], have=len(world.server.output))
    vm.wait_until("the ticks again", lambda: len(world.ticks()) > len(lost) + 5)
    vm.suspend()
    third = vm.wait("suspended")["layers"][-1]
    assert third["parent"] == second["digest"]
    vm.drop()
    check_whole(world.ticks())
    # The whole chain, once more.
    vm = start(world, name="1.0.3", chain=[first, second, third], have=len(world.server.output))
    seen = len(world.ticks())
    vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 5)
    vm.drop()
    check_whole(world.ticks())


def test_a_checkpoint_waits_while_the_owner_has_a_look(world):
    """The link is his. What was being sent goes on where it was when he has gone."""
    vm = start(world)
    world.server.blob_status = 507
    vm.lease(checkpoint=1)
    vm.wait_until("an attempt", lambda: "upload waits" in vm.text())
    vm.say("stop", reason="owner", event_us=time.monotonic_ns() // 1000)
    vm.wait("paused")
    world.server.blob_status = None
    end = time.monotonic() + 6  # longer than the longest pause between two attempts
    vm.wait_until("another attempt", lambda: time.monotonic() > end)
    assert not vm.report.get("layers") and vm.report["state"] == "paused"
    vm.say("cont")
    vm.wait_until("the checkpoint", lambda: vm.report.get("checkpoint") == 1)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 5)
    vm.drop()
    check_whole(world.ticks())


def test_checkpoints_by_themselves_until_the_owner_comes(world):
    vm = start(world)
    vm.lease(checkpoint_ms=300)
    vm.wait_until("the first", lambda: vm.report.get("layers"))
    chain = vm.report["layers"]
    for _ in range(4):
        vm.lease(checkpoint_ms=300, recorded=chain[-1]["digest"])
        vm.wait_until("the next", lambda: vm.report.get("layers", [])[-1:] not in ([], chain[-1:]))
        chain.append(vm.report["layers"][-1])
    # One may be under way; the last one lies on it.
    vm.suspend()
    chain += [l for l in vm.wait("suspended")["layers"] if l["digest"] != chain[-1]["digest"]]
    assert [l["parent"] for l in chain] == [world.golden["digest"]] + [l["digest"] for l in chain[:-1]]
    vm.drop()
    vm = start(world, name="1.0.2", chain=chain, have=len(world.server.output))
    seen = len(world.ticks())
    vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 5)
    vm.drop()
    check_whole(world.ticks())


def checkpoint_always(vm, every_ms=50):
    """Asks for them without end: what is durable counts as recorded."""
    top = (vm.report.get("layers") or [{}])[-1].get("digest", "")
    vm.lease(checkpoint_ms=every_ms, recorded=top)


def test_a_program_that_ends_during_a_checkpoint(world):
    for i in range(4):
        vm = start(world, name=f"1.0.{i + 1}", argv=[
            "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; usleep 90000; done; "
                        "dd if=/dev/urandom of=/tmp/x bs=1M count=4 2>/dev/null; echo x > $YADO_OUT/x"])
        vm.wait_until("the end", lambda: checkpoint_always(vm) or vm.report.get("state") == "done")
        assert vm.report["result"] in world.server.blobs
        vm.drop()
        world.server.output = b""


TALK = ("yado-msg put big /bin/busybox; yado-msg get big | cmp - /bin/busybox && echo same;"
        "i=0; while yado-msg send 1 $i; do i=$((i+1)); m=$(yado-msg recv) || exit 1;"
        " [ $m = end ] && exit 0; echo got $m; done")


def test_mail_over_a_save_and_going_back(world):
    """A part that sends and reads by turns: its PC is taken back, then dies; nothing is lost, nothing
    comes twice, and what it sends again is the same."""
    mail = world.server.mail

    def talk(vm, upto):
        """Posts one for each that came, as the other part would."""
        def answer():
            if len(mail.box) < len(mail.sent):
                mail.post(b"%d" % len(mail.box))

        while len(mail.sent) < upto:
            answer()  # to what came since the last talk
            n = len(mail.sent)
            vm.wait_until("the next message", lambda: len(mail.sent) > n)
        answer()

    vm = start(world, argv=["sh", "-c", TALK], parts=3)
    talk(vm, 10)
    assert mail.blobs["big"] and mail.sent[0][0] == 1
    vm.suspend()
    chain = vm.wait("suspended")["layers"]
    vm.drop()
    print({k: chain[-1].get(k) for k in ("mail_sent", "mail_read")})
    assert 8 <= chain[-1]["mail_sent"] <= 11 and chain[-1].get("mail_read", 0) <= len(mail.box) + 1
    vm = start(world, name="1.0.2", argv=["sh", "-c", TALK], parts=3, chain=chain,
               have=len(world.server.output))
    talk(vm, 20)
    vm.proc.kill()
    vm.proc.wait()
    world.server.output = world.server.output[:chain[-1]["output_offset"]]
    vm = start(world, name="1.0.3", argv=["sh", "-c", TALK], parts=3, chain=chain,
               have=len(world.server.output))
    talk(vm, 30)
    world.server.stop()  # and a master that is away for a moment
    world.server.start()
    talk(vm, 35)
    mail.post(b"end")
    vm.wait("done")
    assert mail.texts() == [str(i) for i in range(len(mail.sent))] and not mail.differs
    lines = world.text().splitlines()
    assert lines == ["same"] + [f"got {i}" for i in range(len(lines) - 1)] and len(lines) > 34
    vm.drop()


def read_until_it_hangs(world):
    """A guest that reads an input whose second half does not come; what it was started with; what
    it is to print."""
    data = os.urandom(8 << 20)
    digest = world.server.add(data)
    world.server.hang_from[digest] = 4 << 20
    program = {"argv": ["sh", "-c", "sha256sum < $YADO_IN/a"], "inputs": [
        {"path": "a", "digest": digest, "size": len(data), "mode": 0o644, "tar": False}]}
    vm = start(world, **program)
    vm.wait_until("the reads to come so far", lambda: any(
        digest in path and ranges and int(ranges.split("-")[1]) >= 4 << 20
        for _, path, ranges in list(world.server.requests)))
    quiet = [len(world.server.requests), time.monotonic()]

    def hangs():
        if len(world.server.requests) != quiet[0]:
            quiet[:] = len(world.server.requests), time.monotonic()
        return time.monotonic() - quiet[1] > 0.5
    vm.wait_until("the guest's own read to hang", hangs)
    return vm, program, hashlib.sha256(data).hexdigest() + "  -\n"


def test_checkpoints_while_the_source_is_away(world):
    """What it reads then is neither lost nor wrong; the guest goes on when the source is back."""
    vm, _, says = read_until_it_hangs(world)
    vm.lease(checkpoint=1)
    vm.wait_until("a checkpoint meanwhile", lambda: "layer of" in vm.text())
    world.server.hang_from.clear()
    vm.wait_until("the end", lambda: checkpoint_always(vm, 100) or vm.report["state"] == "done")
    assert world.text() == says
    vm.drop()


def take_socket_to(pid, vm):
    """The supervisor's end of the socket that is that child's standard input."""
    def inode(process, fd):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{process}/fd/{fd}").strip("socket:[]")
    pairs = [line.split() for line in subprocess.run(
        ["ss", "-xaH"], capture_output=True, text=True, check=True).stdout.splitlines()]
    peer = next(p[7] for p in pairs if p[5] == inode(pid, 0))
    fd = next(fd for fd in os.listdir(f"/proc/{vm.proc.pid}/fd") if inode(vm.proc.pid, fd) == peer)
    process = os.pidfd_open(vm.proc.pid)
    taken = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, process, int(fd), 0)
    os.close(process)
    assert taken >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=taken)


PIDFD_GETFD = 438


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_a_disk_request_that_fails_while_the_guest_runs(world):
    """QEMU stops the guest; it goes on from time to time, until the request succeeds."""
    vm, _, says = read_until_it_hangs(world)
    pager = next(pid for name, pid in vm.processes().items() if name.startswith("yado-pager"))
    with take_socket_to(pager, vm) as control:
        control.sendall(b"fail\n")
        vm.wait_until("a second attempt", lambda: vm.text().count("failed and is kept") >= 2)
        control.sendall(b"serve\n")
    world.server.hang_from.clear()
    vm.wait("done")
    assert world.text() == says
    vm.drop()


def test_a_checkpoint_that_cannot_be_written(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    (vm.dir / "layer.draft").mkdir()  # as a full disk would
    vm.lease(checkpoint=1)
    vm.wait_until("an attempt", lambda: "no checkpoint" in vm.text())
    seen = len(world.ticks())
    vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 20)
    assert vm.text().count("no checkpoint") == 1, "not again and again"
    (vm.dir / "layer.draft").rmdir()
    checkpoint(vm, 1)
    vm.drop()
    check_whole(world.ticks())


SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))
# All frames with YADO_SOAK: the pauses between attempts grow to 5 s.
CUTS = 1000 if os.environ.get("YADO_SOAK") else 4


def test_an_upload_that_is_cut_off(world):
    """Between two frames, in the middle of one, before the first byte and before the last: what
    counts is whole."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    vm = start(world, argv=["sh", "-c", "echo ready; sleep 1000"])
    vm.wait_until("the program", lambda: "ready" in world.text())
    world.server.blob_status = 507
    vm.lease(checkpoint=1)
    vm.wait_until("an attempt", lambda: "upload waits" in vm.text())
    (path,) = vm.dir.glob("*.layer")
    data = path.read_bytes()
    ends = [offset + size for offset, size in layer_file.parts(data).values()][:-1]
    cuts = [0, ends[0] + 1, *ends, len(data) - 1]
    world.server.cuts = cuts if len(cuts) <= CUTS else rng.sample(cuts, CUTS)
    world.server.blob_status = None
    vm.wait_until("the checkpoint", lambda: vm.report.get("checkpoint") == 1,
                  60 + 10 * len(world.server.cuts))
    assert not world.server.cuts
    assert world.server.blobs[vm.report["layers"][0]["digest"]] == data
    vm.drop()


@pytest.mark.parametrize("cut", [None, 0, 1 << 20], ids=["whole", "at once", "in the middle"])
def test_the_last_layer_is_sent_while_it_is_written(world, cut):
    """With a slot from the beginning; what is cut off is sent once more, from the file."""
    world.server.follow_cut = cut
    vm = start(world, argv=["sh", "-c", "head -c 20000000 /dev/urandom > /tmp/noise; "
                                        "echo ready; sleep 1000"])
    vm.wait_until("the program", lambda: "ready" in world.text())
    vm.lease(upload=True)
    before = len(world.server.requests)
    vm.suspend()
    (layer,) = vm.wait("suspended")["layers"]
    data = world.server.blobs[layer["digest"]]
    assert len(data) == layer["size"] > 20000000
    asked = [m for m, path, _ in world.server.requests[before:] if "/blobs" in path]
    if cut is None:
        assert world.server.followed == [layer["digest"]] and asked == ["POST", "HEAD"], asked
    else:
        assert not world.server.followed and asked == ["POST", "HEAD", "PUT"], asked
    vm.drop()


def test_a_shutdown_behind_the_owner_stores_at_once(world):
    """His disk is left alone for 5 s while the master may get the layer, but not when the PC goes."""
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    vm.lease(upload=True)
    world.server.blob_status = 507
    vm.suspend()
    vm.wait_until("the layer", lambda: list(vm.dir.glob("*.layer")))
    begin = time.monotonic()
    vm.say("ping")
    assert vm.report["state"] == "saving" and not (vm.dir / "saved.json").exists()
    vm.suspend()
    vm.wait("saved", "uploading")
    assert time.monotonic() - begin < 4 and (vm.dir / "saved.json").exists()
    world.server.blob_status = None
    vm.wait("suspended")
    vm.drop()


def test_an_idle_guest_writes_next_to_nothing(world):
    vm = start(world, argv=["sh", "-c", "echo ready; sleep 1000"])
    vm.wait_until("the program", lambda: "ready" in world.text())
    first = checkpoint(vm, 1)
    second = checkpoint(vm, 2, recorded=first["digest"])
    print(first["size"], second["size"])
    assert second["size"] < 1 << 20
    vm.drop()


def test_the_last_layer_waits_for_a_slot(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    first = checkpoint(vm, 1, upload=False)  # checkpoints need none
    vm.suspend()
    vm.wait("uploading")
    vm.wait_until("the guest to be gone", lambda: not vm.processes())
    blobs = len(world.server.blobs)
    vm.say("ping")
    assert vm.report["state"] == "uploading" and len(world.server.blobs) == blobs
    vm.lease(upload=True, recorded=first["digest"])
    vm.wait("suspended")
    vm.drop()


def test_a_last_layer_that_may_not_stay(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    first = checkpoint(vm, 1, upload=False)
    vm.suspend()
    vm.wait("uploading")
    assert vm.report["unsent_bytes"] == sum(p.stat().st_size for p in vm.dir.glob("*.layer")
                                            if p.stem != first["digest"])
    vm.say("give_up")
    report = vm.wait("failed")
    assert report["reason"] == "owner" and "deadline" in report["note"], report
    assert [l["digest"] for l in report["layers"]] == [first["digest"]]
    assert [p.stem for p in vm.dir.glob("*.layer")] == [first["digest"]]
    assert not (vm.dir / "saved.json").exists() and "unsent_bytes" not in report
    vm.drop()


def test_a_damaged_layer_is_named(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    vm.suspend()
    layer = vm.wait("suspended")["layers"][0]
    vm.drop()
    data = bytearray(world.server.blobs[layer["digest"]])
    data[-20] ^= 1  # in the footer; what the depot has is damaged, sums and all
    digest = world.server.add(bytes(data))
    bad = dict(layer, digest=digest)
    vm = start(world, name="1.0.2", chain=[bad], have=len(world.server.output))
    report = vm.wait("failed")
    assert report["reason"] == "layer damaged" and report["damaged"] == digest, report
    vm.drop()


def test_what_is_not_saved_by_the_deadline_is_given_up(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    layer = checkpoint(vm, 1)
    qemu = next(p for n, p in vm.processes().items() if n.startswith("qemu"))

    with traced(qemu):
        vm.say("suspend", reason="owner", event_us=time.monotonic_ns() // 1000,
               until_ms=boottime_ms() + 1000)
        report = vm.wait("failed", timeout=30)
    assert report["reason"] == "owner" and "deadline" in report["note"]
    assert report["layers"][0]["digest"] == layer["digest"]
    vm.wait_until("everything to be given back", lambda: not vm.processes(), timeout=10)
    vm.drop()


def stands(vm, world):
    """True when no tick comes for a while although the agent pings."""
    def pass_time(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            vm.poll()
            time.sleep(0.01)
    pass_time(0.3)  # what is on its way to the master
    before = len(world.ticks())
    pass_time(0.5)
    return len(world.ticks()) == before


def test_it_runs_only_with_agent_and_lease(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    vm.wait_until("an answer to a ping", lambda: "run_ms" in vm.report)
    ran, since = vm.report["run_ms"], time.monotonic()
    vm.wait_until("its run time, in the answer to a ping", lambda: vm.report["run_ms"] > ran)
    assert vm.report["run_ms"] - ran < (time.monotonic() - since) * 1000 + 500  # the ping before
    vm.run(lease_ms=300)
    vm.wait("paused")
    ran = vm.report["run_ms"]
    assert stands(vm, world)
    assert vm.report["run_ms"] == ran
    seen = len(world.ticks())
    vm.run()
    vm.wait_until("ticks after a new lease", lambda: len(world.ticks()) > seen + 3)
    vm.say("stop")
    vm.wait("paused")
    vm.hang_up()
    vm.connect()
    vm.say("lease", until_ms=boottime_ms() + 60000)
    assert stands(vm, world)  # a lease alone is not cont
    vm.say("cont")
    seen = len(world.ticks())
    vm.wait_until("ticks after cont", lambda: len(world.ticks()) > seen + 3)
    vm.pings = False  # it hangs: nobody watches for the owner
    vm.wait("paused", timeout=5)
    assert stands(vm, world)
    vm.pings = True
    seen = len(world.ticks())
    vm.wait_until("ticks with an agent", lambda: len(world.ticks()) > seen + 10)
    check_whole(world.ticks())
    vm.drop()


def test_master_away(world):
    """Output waits in the guest, the layer on the disk; nothing is lost, also when the agent is
    updated to one that knows keys."""
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    world.server.stop()
    time.sleep(0.5)
    vm.suspend("shutdown")
    vm.wait("uploading")
    vm.wait_until("an attempt", lambda: "upload waits" in vm.text())
    # The supervisor dies as well: a new one goes on with what is on the disk.
    vm.proc.kill()
    vm.proc.wait()
    vm.sock.close()
    vm.start()
    vm.wait("saved")
    vm.lease(key="5e" * 32)  # with it comes what layers are opened with: this one is not sealed
    vm.wait("uploading")
    world.server.start()
    report = vm.wait("suspended")
    assert report["reason"] == "shutdown"
    vm.drop()
    have = len(world.server.output)
    vm = start(world, name="1.0.2", chain=report["layers"], have=have)
    seen = len(world.ticks())
    vm.wait_until("ticks", lambda: len(world.ticks()) > seen + 10)
    check_whole(world.ticks())
    vm.drop()


def test_owner_returns_while_reads_hang(world):
    """The stop waits for no read, and the guest never sees an error."""
    vm, program, says = read_until_it_hangs(world)
    begin = time.monotonic()
    vm.suspend()
    report = vm.wait("saved", "uploading", "suspended")
    assert time.monotonic() - begin < 2 and report["stop_ms"] <= 50
    assert not world.text()
    world.server.hang_from.clear()
    report = vm.wait("suspended")
    vm.drop()
    vm = start(world, name="1.0.6", chain=report["layers"], have=len(world.server.output), **program)
    vm.wait("done")
    assert world.text() == says
    vm.drop()


def test_full_disk_and_stale_at_the_master(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    world.server.blob_status = 507
    vm.suspend()
    vm.wait_until("an attempt", lambda: "upload waits" in vm.text())
    world.server.blob_status = None
    vm.wait("suspended")
    vm.drop()
    world.server.output = b""
    vm = start(world, name="1.0.3")
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    world.server.output_status = 409
    assert vm.wait("failed")["reason"] == "stale"
    vm.wait_until("everything to be given back", lambda: not vm.processes())
    vm.drop()


@pytest.mark.parametrize("who, reason", [
    ("qemu", "QEMU died"), pytest.param("pager", "pager died", marks=NEEDS_FUSE)])
def test_a_death_is_told_and_cleaned(world, who, reason):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    name = next(n for n in vm.processes() if n.startswith("qemu" if who == "qemu" else "yado-pager"))
    os.kill(vm.processes()[name], signal.SIGKILL)
    assert vm.wait("failed")["reason"] == reason
    vm.wait_until("everything to be given back", lambda: not vm.processes())
    vm.drop()


@NEEDS_FUSE
def test_a_pager_that_hangs_holds_no_memory(world):
    """Nor does one that hangs while QEMU starts."""
    for ready in (True, False):
        vm = start(world)
        if ready:
            vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
        else:
            vm.wait_until("the pager", lambda: "yado-pager" in vm.processes())
        os.kill(vm.processes()["yado-pager"], signal.SIGSTOP)
        children = vm.processes().values()
        begin = time.monotonic()
        vm.say("drop")
        assert vm.proc.wait(10) == 0
        wait_for("the children to end",
                 lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children), 5, 0.01)
        assert time.monotonic() - begin < (1 if not SANITIZER else 2)


def suspended_holder(world):
    """A layer that holds 24 MB of the guest's own, and their digest."""
    vm = start(world, argv=["sh", "-c", HOLDER])
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    vm.suspend()
    layer, = vm.wait("suspended")["layers"]
    vm.drop()
    return layer, world.text().split()[0]


@NEEDS_FUSE
def test_a_layer_found_damaged_while_the_guest_runs(world):
    layer, _ = suspended_holder(world)
    data = bytearray(world.server.blobs[layer["digest"]])
    data[len(data) // 2] ^= 1  # in a frame; nobody looks at it before its pages are needed
    bad = dict(layer, digest=world.server.add(bytes(data)))
    vm = start(world, name="1.0.2", argv=["sh", "-c", HOLDER], chain=[bad],
               have=len(world.server.output))
    report = vm.wait("failed")
    assert report["reason"] == "layer damaged" and report["damaged"] == bad["digest"], report
    vm.wait_until("everything to be given back", lambda: not vm.processes())
    vm.drop()


def hot_bytes(data):
    """Of the hot list in a layer file."""
    footer = data[-104:]
    assert footer[:8] == b"YADOLEND"
    return struct.unpack(">QII", footer[8:24])[2]


@NEEDS_FUSE
def test_layers_tell_what_was_read_first(world):
    layer, _ = suspended_holder(world)
    assert hot_bytes(world.server.blobs[layer["digest"]]) > 4 + 12


@NEEDS_FUSE
def test_memory_is_read_again_under_pressure(world):
    """From the PC's own disk: the master is away."""
    layer, digest = suspended_holder(world)
    have = len(world.server.output)
    vm = start(world, name="1.0.2", argv=["sh", "-c", HOLDER], chain=[layer], have=have)
    vm.wait_until("ticks", lambda: len(world.server.output) > have)
    qemu = next(p for n, p in vm.processes().items() if n.startswith("qemu"))
    for _ in range(5):
        page_out(qemu, vm.proc.pid, vm.dir)
        seen = len(world.text())
        vm.wait_until("a digest", lambda: digest in world.text()[seen:])
    assert set(w for w in world.text().split() if len(w) == 64) == {digest}
    vm.drop()


@NEEDS_FUSE
def test_owner_returns_while_memory_reads_hang(world):
    """Nothing may fail them, so nothing is saved; but the memory is given back by the deadline."""
    layer, _ = suspended_holder(world)
    have = len(world.server.output)
    vm = start(world, name="1.0.2", argv=["sh", "-c", HOLDER], chain=[layer], have=have)
    vm.wait_until("ticks", lambda: len(world.server.output) > have)
    world.server.stall.set()
    data = world.dir / "cache" / f"{layer['digest']}.data"
    with open(data, "r+b") as f:
        f.write(bytes(data.stat().st_size))  # what is read again must come from the master
    page_out(next(p for n, p in vm.processes().items() if n.startswith("qemu")), vm.proc.pid, vm.dir)
    vm.wait_until("the guest to hang", lambda: stands(vm, world), 20)
    begin = time.monotonic()
    vm.say("suspend", reason="owner", event_us=time.monotonic_ns() // 1000,
           until_ms=boottime_ms() + 1000)
    report = vm.wait("failed", timeout=10)
    assert report["reason"] == "owner" and "deadline" in report["note"], report
    vm.wait_until("everything to be given back", lambda: not vm.processes(), timeout=10)
    assert time.monotonic() - begin < (3 if not SANITIZER else 5)
    world.server.stall.clear()
    vm.drop()


def test_supervisor_killed_leaves_nothing(world):
    vm = start(world)
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    children = vm.processes()
    assert any(n.startswith("qemu") for n in children)
    vm.proc.kill()
    vm.proc.wait()
    for pid in children.values():
        wait_for("the children to end", lambda: not os.path.exists(f"/proc/{pid}"), 5)


def test_suspend_while_preparing_and_a_job_that_is_dropped(world):
    world.server.stall.set()
    vm = Vm(world, "1.0.4", world.desired(argv=["true"], golden=dict(world.golden, size=world.golden["size"])))
    shutil.rmtree(world.dir / "cache", ignore_errors=True)
    vm.run()
    vm.wait("preparing")
    vm.suspend("owner")
    report = vm.wait("failed")
    assert report["reason"] == "owner" and "layers" not in report
    vm.drop()


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_qemu_and_pager_are_other_users(world):
    a = os.urandom(300000)
    inputs = [{"path": "a", "digest": world.server.add(a), "size": len(a), "mode": 0o644,
               "tar": False}]
    vm = Vm(world, "1.0.7", world.desired(
        argv=["sh", "-c", "sha256sum < $YADO_IN/a; " + FAST], golden=world.golden, inputs=inputs),
        uid=65532, gid=65532, pager_uid=65531, pager_gid=65531)
    vm.run()
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    assert world.text().split()[0] == hashlib.sha256(a).hexdigest()
    for name, uid in (("qemu", 65532), ("yado-pager", 65531)):
        pid = next(p for n, p in vm.processes().items() if n.startswith(name))
        assert os.stat(f"/proc/{pid}").st_uid == uid
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{uid}\t{uid}\t{uid}" in status and f"Gid:\t{uid}\t{uid}\t{uid}" in status
    vm.suspend()
    vm.wait("suspended")
    assert "fetching image and memory whole" not in vm.text()
    assert "comes from its file" not in vm.text()
    vm.drop()


def test_fresh_memory_is_anonymous(world):
    """Most of what golden has no pages of does not come through the pager's file, and what the guest
    writes there is saved and comes back."""
    vm = start(world, argv=["sh", "-c", """head -c 40000000 /dev/urandom > /tmp/a; sha256sum < /tmp/a
        i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo tick $i; usleep 50000; done
        sha256sum < /tmp/a"""])
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    qemu = next(p for n, p in vm.processes().items() if n.startswith("qemu"))
    maps = pathlib.Path(f"/proc/{qemu}/maps").read_text()
    mapped = sum(int(b, 16) - int(a, 16) for a, b in
                 re.findall(r"^(\w+)-(\w+) rw-p .*/memory$", maps, re.M))
    assert 0 < mapped < MEMORY - (16 << 20), maps  # of whole huge pages, between what golden has
    vm.suspend()
    layer = vm.wait("suspended")["layers"][0]
    vm.drop()
    vm = start(world, name="1.0.2", chain=[layer], have=len(world.server.output))
    vm.wait("done")
    before, *ticks, after = world.text().splitlines()
    assert before == after and len(ticks) == 60


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_without_fuse(world):
    a = os.urandom(300000)
    vm = Vm(world, "1.0.5", world.desired(
        argv=["sh", "-c", "sha256sum < $YADO_IN/a; " + FAST], golden=world.golden,
        inputs=[{"path": "a", "digest": world.server.add(a), "size": len(a), "mode": 0o644,
                 "tar": False}]),
        wrap=["unshare", "-m", "sh", "-c", "mount --bind /dev/null /dev/fuse && exec \"$@\"", "sh"])
    vm.run()
    vm.wait_until("ticks", lambda: len(world.ticks()) > 3)
    assert world.text().split()[0] == hashlib.sha256(a).hexdigest()
    assert "fetching image and memory whole" in vm.text()
    vm.suspend()
    vm.wait("suspended")
    vm.drop()
