# SPDX-License-Identifier: Apache-2.0
"""A placement's network drive as a PC sees it: an HTTPS connection that becomes an NBD stream."""
import contextlib
import itertools
import os
import pathlib
import socket
import ssl
import struct
from urllib.parse import urlsplit

READ, WRITE, FLUSH = 0, 1, 3
attempts = itertools.count(1)


def storage_daemons(folder):
    """The processes that serve the drive in that folder."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(p / "cwd") == str(folder) and \
                    b"qemu-storage-daemon" in (p / "cmdline").read_bytes():
                found.append(int(p.name))
    return found


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:300]}")
        self.status = status


class Lost(Exception):
    """The stream ended: what was not answered may or may not have happened."""


class Nbd:
    """A client of the export `drive` over a connected socket."""

    def __init__(self, sock):
        self.sock = sock
        self.handles = itertools.count(1)
        self.greet()

    def get(self, n):
        data = b""
        while len(data) < n:
            try:
                more = self.sock.recv(n - len(data))
            except OSError as e:
                raise Lost() from e
            if not more:
                raise Lost()
            data += more
        return data

    def put(self, data):
        try:
            self.sock.sendall(data)
        except OSError as e:
            raise Lost() from e

    def greet(self):
        assert self.get(18)[:16] == b"NBDMAGICIHAVEOPT"
        name = b"drive"
        option = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.put(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(option)) + option)
        while True:
            _, _, kind, length = struct.unpack(">QIII", self.get(20))
            data = self.get(length)
            if kind == 1:
                break
            assert kind == 3, (kind, data)
            if struct.unpack(">H", data[:2])[0] == 0:
                self.size, self.flags = struct.unpack(">QH", data[2:12])

    def send(self, kind, offset=0, length=0, data=b""):
        handle = next(self.handles)
        self.put(struct.pack(">IHHQQI", 0x25609513, 0, kind, handle, offset, length) + data)
        return handle

    def reply(self):
        magic, error, handle = struct.unpack(">IIQ", self.get(16))
        assert magic == 0x67446698
        return handle, error

    def write(self, offset, data):
        self.send(WRITE, offset, len(data), data)
        assert self.reply()[1] == 0

    def read(self, offset, length):
        self.send(READ, offset, length)
        assert self.reply()[1] == 0
        return self.get(length)

    def close(self):
        self.sock.close()


class Drive(Nbd):
    """A placement's connection to the master."""

    def __init__(self, url, ca, placement, grant, cut=None, attempt=None, timeout=30):
        at = urlsplit(url)
        context = ssl.create_default_context(cafile=str(ca))
        sock = context.wrap_socket(
            socket.create_connection((at.hostname, at.port), timeout), server_hostname=at.hostname)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        path = f"/v1/vm/{placement}/drive?attempt={attempt or next(attempts)}"
        if cut is not None:
            path += f"&cut={cut}"
        sock.sendall((f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\nConnection: Upgrade\r\n"
                      f"Upgrade: nbd\r\nAuthorization: Bearer {grant}\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = sock.recv(1)  # not a byte of what follows
            if not more:
                raise Lost()
            head += more
        status = int(head.split()[1])
        if status != 101:
            raise Refused(status, sock.recv(4096).decode(errors="replace"))
        super().__init__(sock)
