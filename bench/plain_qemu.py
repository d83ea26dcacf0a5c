# SPDX-License-Identifier: Apache-2.0
"""What bench/migrate compares with: stock QEMU, moved as a careful script would do it. The guest is
stopped and migrated over a socket into a file on the depot's side, which is synced; only then is
QEMU ended, another one started on the other PC, and the file sent to it."""
import contextlib
import os
import socket
import threading

import sweeper
from grid import wait_for
from guest_host import READY, Machine, lay_out
from sweeper import MIB, Measured, Watch, guest_mb, now


def connected(address):
    with contextlib.suppress(OSError):
        return socket.create_connection(address)


def free_port():
    """On loopback; in a namespace of its own QEMU has every port."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Plain:
    """Stock QEMU's guest, of the same kernel, init and devices; its output goes to the watch."""

    def __init__(self, folder, net, row):
        self.folder, self.net, self.row, self.count = folder, net, row, 0
        self.drive = folder / "in"
        self.inputs = lay_out(self.drive, [("sweeper", sweeper.PROGRAM.read_bytes(), False)])
        self.watch, self.raw_at, self.machine = Watch(), 0, None

    def begin(self):
        m = self.boot(self.add_pc())
        m.sync()
        m.phase(READY)
        m.start(sweeper.command("/in/sweeper", self.row["mb"], self.row["dirty_mb_s"]),
                inputs=self.inputs)
        self.take_over(m)

    def add_pc(self):
        self.count += 1
        self.net.add(f"pc-{self.count}")
        return f"pc-{self.count}"

    def boot(self, pc, **more):
        self.pc = pc
        return Machine(self.folder, pc, memory=guest_mb(self.row["mb"]), input_file=self.drive,
                       enter=self.net.enter(pc), **more)

    def take_over(self, machine):
        self.machine = machine
        self.thread = threading.Thread(target=self.pump, args=[machine], daemon=True)
        self.thread.start()

    def pump(self, machine):
        """Until the machine is dropped."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.watch.feed(self.output(machine))
                machine.take(0.5)

    def output(self, machine):
        """What is new of the records: stream, length, bytes."""
        text = b""
        while len(machine.output) >= self.raw_at + 5:
            n = int.from_bytes(machine.output[self.raw_at + 1:self.raw_at + 5], "big")
            text += machine.output[self.raw_at + 5:self.raw_at + 5 + n]
            self.raw_at += 5 + n
        return text

    def drop(self):
        if self.machine:
            self.machine.drop()
            self.thread.join()

    def receive(self, path):
        """The depot's side: a thread that takes a stream into a file and syncs it; its port."""
        with self.net.inside("master"):
            server = socket.create_server((self.net.MASTER, 0))

        def run():
            with server, server.accept()[0] as s, open(path, "wb", buffering=0) as f:
                buffer = memoryview(bytearray(MIB))
                while n := s.recv_into(buffer):
                    f.write(buffer[:n])
                os.fsync(f.fileno())
        thread = threading.Thread(target=run)
        thread.start()
        return thread, server.getsockname()[1]

    def send(self, path, address):
        with self.net.inside("master"):
            s = wait_for("QEMU to listen", lambda: connected(address), 10, 0.005)
        with s, open(path, "rb") as f:
            s.sendfile(f)

    def move(self):
        saved, old, here, to = self.folder / "saved", self.machine, self.pc, self.add_pc()
        address = (self.net.address(to), free_port())
        sent = self.net.sent_bytes(here)
        measured = Measured(self.watch, self.row, now())
        old.qmp("stop")
        stopped = now()
        thread, port = self.receive(saved)
        old.migrate(f"tcp:{self.net.MASTER}:{port}")
        thread.join()
        self.drop()
        free, sent = now(), self.net.sent_bytes(here) - sent or saved.stat().st_size
        new = self.boot(to, incoming=f"tcp:{address[0]}:{address[1]}")
        self.send(saved, address)
        new.go_on()
        wait_for("the guest to run", lambda: new.qmp("query-status")["status"] == "running", 10, 0.002)
        resumed = now()
        new.output = old.output
        new.sync()
        self.take_over(new)
        event = measured.event
        return measured.finish(
            stop_ms=(stopped - event) * 1000, free_ms=(free - event) * 1000, sent_bytes=sent,
            search_ms=0, resume_ms=(resumed - free) * 1000, total_ms=(resumed - event) * 1000)
