# SPDX-License-Identifier: Apache-2.0
"""The host's side of the guest frames (docs/formats/guest.md, src/wire/guest_frame.h) written a
second time, and a QEMU to try them on. Also what one guest's life looks like in a few lines:

    with Machine(dir, memory=96) as m:
        m.sync(); m.start(["echo", "hi"]); m.finish(); assert m.stdout() == b"hi\\n"
"""
import io
import json
import os
import pathlib
import socket
import struct
import subprocess
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = pathlib.Path(os.environ.get("YADO_IMAGES", ROOT / "build/images"))

SYNC, START, ACK, START_MORE, STATE, OUTPUT, RESULT = 1, 2, 3, 5, 65, 66, 67
READY, STARTING, RUNNING, EXITED, FINISHED, BROKEN = range(1, 7)
PAYLOAD_MAX, WINDOW = 65536, 1 << 20

_TABLE = []
for _i in range(256):
    for _ in range(8):
        _i = _i >> 1 ^ (0x82F63B78 if _i & 1 else 0)
    _TABLE.append(_i)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def frame(kind, payload):
    head = b"YDG1" + struct.pack(">BBHIII", 1, kind, 0, len(payload), crc32c(payload), 0)
    return head + struct.pack(">I", crc32c(head)) + payload


def lay_out(path, blobs):
    """Writes blobs as the agent lays them out; returns START's inputs."""
    inputs, at = [], 0
    with open(path, "wb") as f:
        for name, data, tar in blobs:
            f.seek(at)
            f.write(data)
            inputs.append({"path": name, "offset": at, "size": len(data), "mode": 0o755, "tar": tar})
            at += (len(data) + 4095) // 4096 * 4096
        f.truncate(1 << 40)
    return inputs


def records(output):
    """Stream and bytes of each whole record."""
    at = 0
    while at + 5 <= len(output):
        stream, n = struct.unpack_from(">BI", output, at)
        assert stream in (1, 2) and 0 < n <= 32768
        if at + 5 + n > len(output):
            break
        yield stream, output[at + 5:at + 5 + n]
        at += 5 + n


class State:
    def __init__(self, payload):
        (self.phase, self.oom, self.out_full, _, self.wait_status, self.nonce, self.output_end,
         self.result_end, self.peak_bytes, self.run_ms) = struct.unpack_from(">BBBBiQQQQQ", payload)
        self.text = payload[48:248].split(b"\0")[0].decode()
        self.group, = struct.unpack_from(">Q", payload, 248)

    def __repr__(self):
        return str(self.__dict__)


class Host:
    """One connection to a guest. Output and result are what a master would have stored."""

    def __init__(self, sock, check_payloads=False):
        self.sock, self.check = sock, check_payloads
        self.pending = b""
        self.state = None
        self.nonce = None
        self.output, self.result = b"", b""
        self.ack = True
        self.seen = []  # (type, offset, bytes) of every OUTPUT and RESULT frame
        self.states = []

    def send(self, kind, payload):
        self.sock.sendall(frame(kind, payload))

    def send_sync(self, wall_ns=None, nonce=None, output_have=None, result_have=None):
        self.nonce = nonce or int.from_bytes(os.urandom(8), "big")
        self.send(SYNC, struct.pack(">QQQ", wall_ns or time.time_ns(),
                                    len(self.output) if output_have is None else output_have,
                                    len(self.result) if result_have is None else result_have)
                  + os.urandom(64) + struct.pack(">Q", self.nonce))

    def send_ack(self):
        self.send(ACK, struct.pack(">QQ", len(self.output), len(self.result)))

    def start(self, argv, **more):
        spec = {"argv": argv, "env": {}, "hostname": "job-1-0", "memory_bytes": 0,
                "time_limit_ms": 0, "out_limit_bytes": 64 << 20, "network": "none", "inputs": []}
        spec.update(more)
        text = json.dumps(spec).encode()
        piece, at = PAYLOAD_MAX - 4, 0
        while len(text) - at > PAYLOAD_MAX:
            self.send(START_MORE, struct.pack(">I", at) + text[at:at + piece])
            at += piece
        self.send(START, text[at:])

    def take(self, timeout):
        """Reads once and handles every whole frame; False when nothing came."""
        self.sock.settimeout(max(timeout, 0.001))
        try:
            data = self.sock.recv(1 << 18)
        except TimeoutError:
            return False
        if not data:
            raise EOFError("the guest's machine ended")
        self.pending += data
        while True:
            at = self.pending.find(b"YDG1")
            if at < 0:
                self.pending = self.pending[-3:]
                return True
            self.pending = self.pending[at:]
            if len(self.pending) < 24:
                return True
            kind, _, n, crc, _, head = struct.unpack_from(">BHIIII", self.pending, 5)
            if crc32c(self.pending[:20]) != head:
                self.pending = self.pending[1:]
                continue
            if len(self.pending) < 24 + n:
                return True
            payload = self.pending[24:24 + n]
            if (self.check or n < 1000) and crc32c(payload) != crc:
                self.pending = self.pending[1:]
                continue
            self.pending = self.pending[24 + n:]
            self.handle(kind, payload)

    def handle(self, kind, payload):
        if kind == STATE:
            state = State(payload)
            if state.nonce == self.nonce:
                self.state = state
                self.states.append(state)
        elif self.state is None or self.state.nonce != self.nonce:
            return
        elif kind in (OUTPUT, RESULT):
            offset, data = struct.unpack_from(">Q", payload)[0], payload[8:]
            self.seen.append((kind, offset, len(data)))
            have = self.output if kind == OUTPUT else self.result
            assert offset <= len(have), f"a gap: {offset} after {len(have)}"
            again = have[offset:offset + len(data)]
            assert again == data[:len(again)], "sent again, and different"
            if kind == OUTPUT:
                self.output += data[len(again):]
            else:
                self.result += data[len(again):]
            if self.ack:
                self.send_ack()

    def wait(self, what, check, timeout=60):
        end = time.monotonic() + timeout
        while not check():
            left = end - time.monotonic()
            assert left > 0, f"waited {timeout} s for {what}: {self.state}, output {self.output[-300:]!r}"
            self.take(left)
        return self.state

    def sync(self, timeout=60, **more):
        self.state = None
        end = time.monotonic() + timeout
        while self.state is None:
            assert time.monotonic() < end, "no STATE after SYNC"
            self.send_sync(**more)
            again = time.monotonic() + 1
            while self.state is None and time.monotonic() < again:
                if not self.take(again - time.monotonic()):
                    self.pending = self.pending[1:]
        return self.state

    def phase(self, *phases, timeout=60):
        return self.wait(f"phase {phases}", lambda: self.state and self.state.phase in phases, timeout)

    def finish(self, timeout=60):
        return self.phase(FINISHED, BROKEN, timeout=timeout)

    def records(self):
        found = list(records(self.output))
        assert sum(5 + len(data) for _, data in found) == len(self.output)
        return found

    def stdout(self, stream=1):
        return b"".join(d for s, d in self.records() if s == stream)

    def tar(self):
        return tarfile.open(fileobj=io.BytesIO(self.result))


class Machine(Host):
    """A QEMU with the devices that src/vm gives it. `save` and `Machine(load=...)` go through
    QEMU's own migration to a file: slower than a layer, and independent of our own code for it.
    With `incoming`, QEMU's word for where a saved state comes from, the caller lets it go on.
    `enter` goes before QEMU's command line."""

    def __init__(self, folder, name, memory=128, root=None, input_file=None, load=None, net=False,
                 incoming=None, enter=()):
        self.dir = pathlib.Path(folder)
        self.console = self.dir / f"{name}.console"
        self.memory = memory
        qmp = self.dir / f"{name}.qmp"
        ours, theirs = socket.socketpair()
        self.err = open(self.dir / f"{name}.err", "w+")
        args = [*enter, "qemu-system-x86_64", "-machine", "pc-i440fx-7.2,accel=tcg", "-cpu", "Nehalem",
                "-m", str(memory), "-nodefaults", "-nographic", "-no-reboot",
                "-kernel", IMAGES / "vmlinuz", "-initrd", IMAGES / "initrd",
                "-append", "console=ttyS0 quiet panic=-1 rdinit=/init",
                "-serial", f"file:{self.console}", "-qmp", f"unix:{qmp},server=on,wait=off",
                "-chardev", f"socket,id=guest,fd={theirs.fileno()}",
                "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=guest,name=yado.0",
                "-device", "virtio-rng-pci",
                "-blockdev", f"driver=file,node-name=root,read-only=on,filename={root or os.devnull}"
                if root else "driver=null-co,node-name=root,read-only=on,size=4096",
                "-device", "virtio-blk-pci,drive=root",
                "-blockdev", f"driver=file,node-name=in,read-only=on,filename={input_file}"
                if input_file else f"driver=null-co,node-name=in,read-only=on,size={1 << 40}",
                "-device", "virtio-blk-pci,drive=in",
                "-netdev", f"user,id=net{'' if net else ',restrict=on'}",
                "-device", "virtio-net-pci,netdev=net,romfile="]
        args = [str(a) for a in args]
        if load:
            incoming = f"exec:cat {load}"
        if incoming:
            args += ["-incoming", incoming]
        self.proc = subprocess.Popen(args, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                                     stdout=self.err, stderr=self.err)
        theirs.close()
        super().__init__(ours)
        self.qmp_path, self.qmp_file = qmp, None
        if load:
            self.go_on()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.drop()
        if kind is not None:
            for path in (self.console, pathlib.Path(self.err.name)):
                if path.exists():
                    print(f"==== {path}\n" + path.read_text(errors="replace")[-3000:])

    def drop(self):
        self.proc.kill()
        self.proc.wait()
        self.sock.close()
        if self.qmp_file:
            self.qmp_file.close()
            self.qmp_file = None

    def qmp(self, command, **arguments):
        if self.qmp_file is None:
            s = socket.socket(socket.AF_UNIX)
            for _ in range(500):
                try:
                    s.connect(str(self.qmp_path))
                    break
                except OSError:
                    time.sleep(0.01)
            self.qmp_file = s.makefile("rw")
            self.qmp_file.readline()
            self.qmp("qmp_capabilities")
        self.qmp_file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.qmp_file.flush()
        while True:
            answer = json.loads(self.qmp_file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def go_on(self):
        """Once a state that is being loaded is complete."""
        while self.qmp("query-status")["status"] == "inmigrate":
            time.sleep(0.005)
        self.qmp("cont")

    def migrate(self, uri):
        """Sends the state of a guest that is stopped."""
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.qmp("migrate", uri=uri)
        while self.qmp("query-migrate")["status"] not in ("completed", "failed"):
            time.sleep(0.01)
        assert self.qmp("query-migrate")["status"] == "completed"

    def save(self, path):
        """Stops and saves; the machine is dropped afterwards."""
        self.qmp("stop")
        self.migrate(f"exec:cat > {path}")
        self.drop()
