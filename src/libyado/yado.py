# SPDX-License-Identifier: Apache-2.0
"""Messages between the parts of a job (docs/messages.md). The same as libyado, in plain Python.

    import yado
    mail = yado.open()
    mail.send(1, b"hello")
    sender, data = mail.recv()

A part of a job finds its mail by itself; on your own machine run the program under
`yado local -n 4 -- python3 program.py`. A handle belongs to one thread.
"""
import os as _os
import select as _select
import socket as _socket
import struct as _struct
import time as _time

SOCKET = "/run/yado/mail"
MESSAGE_MAX = 1 << 20  # bytes of one message; larger data goes as blobs
ANY = None

_PIECE_MAX = 60 * 1024
_HELLO, _SEND, _RECV, _TAKE, _PUT, _GET = 1, 2, 3, 4, 5, 6
_SENT, _MESSAGE, _BLOB = 65, 66, 67
_USER, _BARRIER = 0, 1
_ANY = 0xFFFFFFFF
_MORE, _DONE, _ABSENT, _REFUSED, _EXISTS, _AGAIN, _NO_NAME = range(7)


class Gone(Exception):
    """A rank has failed for good and sends no more; `rank` says which (None: some rank)."""

    def __init__(self, rank=None):
        super().__init__("a rank is gone" if rank is None else f"rank {rank} is gone")
        self.rank = rank


class Mail:
    """The mailbox of this part. rank, ranks: which part this is, and of how many."""

    def __init__(self, path=None):
        self._ask, self._asked, self._last, self._lent = 0, None, 0, None
        self._in = b""
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._socket.connect(path or _os.environ.get("YADO_MAIL") or SOCKET)
            self._put(_HELLO, b"\1")
            _, self.rank, self.ranks = _struct.unpack_from(">BII", self._await(_HELLO))
        except BaseException:
            self._socket.close()
            raise

    def close(self):
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, to, data):
        """Returns when the message is safe on its way; waits while much is on its way already."""
        self._send(to, _USER, data)

    def broadcast(self, data):
        """To every rank but this one."""
        self._send_others(_USER, data)

    def recv(self, source=ANY, timeout=None):
        """(sender, bytes) of the next message, of `source` or of any rank. TimeoutError: none came
        within so many seconds (0: looks only). Gone: instead of a message, once a rank."""
        return self._recv(_USER, _ANY if source is ANY else source, timeout)

    def fileno(self):
        """For select and poll: readable when recv(timeout=0) has something. Hand the Mail itself
        to select anew each time, since asking is what makes a message come."""
        if self._lent is not None or self._in:
            self._ask = 0  # what was read already makes nothing readable: it comes once more
        self._open_ask(_USER, _ANY)
        return self._socket.fileno()

    def barrier(self):
        """Returns when all ranks have called it. Gone: one never will."""
        whole = True
        if self.rank:
            self._send(0, _BARRIER, b"\1")
            whole = self._hear(0)
        else:
            for rank in range(1, self.ranks):
                whole = self._hear(rank) and whole
            self._send_others(_BARRIER, bytes([whole]))
        if not whole:
            raise Gone

    def put(self, name, data):
        """A blob of the group. False: there is one of that name already, which counts."""
        data, at = memoryview(data).cast("B"), 0
        while True:
            piece = data[at:at + _PIECE_MAX]
            status, _, _ = self._blob(_PUT, name, len(data), at, piece)
            if status in (_DONE, _EXISTS):
                return status == _DONE
            at = 0 if status == _AGAIN else at + len(piece)

    def get(self, name):
        """The bytes of a blob; KeyError: there is none (yet)."""
        data = bytearray()
        while True:
            _, total, piece = self._blob(_GET, name, 0, len(data), b"")
            data += piece
            if len(data) >= total:
                return bytes(data)
            if not piece:
                raise ConnectionError("yado: a piece of a blob is empty")

    # ---- what the desk hears and says, see src/libyado/protocol.h

    def _put(self, kind, *parts):
        size = 1 + sum(len(p) for p in parts)
        self._socket.sendall(b"".join((_struct.pack(">IB", size, kind), *parts)))

    def _read(self, count):
        while len(self._in) < count:
            more = self._socket.recv(max(65536, count - len(self._in)))
            if not more:
                raise ConnectionResetError("yado: the desk has ended")
            self._in += more
        data, self._in = self._in[:count], self._in[count:]
        return data

    def _frame(self):
        """The next frame that is not a message; None for one, which is kept if it was asked for."""
        size, kind = _struct.unpack(">IB", self._read(5))
        data = self._read(size - 1)
        if kind != _MESSAGE:
            return kind, data
        if _struct.unpack_from(">I", data)[0] == self._ask and self._lent is None:
            self._lent = data
        return None

    def _await(self, kind):
        while (frame := self._frame()) is None:
            pass
        if frame[0] != kind:
            raise ConnectionError(f"yado: an answer of type {frame[0]}, not {kind}")
        return frame[1]

    def _send(self, to, tag, data):
        data = memoryview(data).cast("B")
        if not 0 <= to < self.ranks:
            raise ValueError(f"there is no rank {to}, of {self.ranks}")
        if len(data) > MESSAGE_MAX:
            raise ValueError(f"a message of {len(data)} bytes: {MESSAGE_MAX} at most, "
                             "larger data goes as blobs")
        self._put(_SEND, _struct.pack(">IB", to, tag), data)
        error, = _struct.unpack(">I", self._await(_SENT))
        if error:
            raise OSError(error, _os.strerror(error))

    def _send_others(self, tag, data):
        for rank in range(self.ranks):
            if rank != self.rank:
                self._send(rank, tag, data)

    def _open_ask(self, tag, source):
        if self._ask and self._asked == (tag, source):
            return
        self._last = self._last % 0xFFFFFFFF + 1
        self._lent, self._ask, self._asked = None, self._last, (tag, source)
        self._put(_RECV, _struct.pack(">IBI", self._ask, tag, source))

    def _recv(self, tag, source, timeout):
        if source != _ANY and not 0 <= source < self.ranks:
            raise ValueError(f"there is no rank {source}, of {self.ranks}")
        self._open_ask(tag, source)
        end = None if timeout is None else _time.monotonic() + timeout
        if timeout == 0 and self._lent is None:
            self._put(_HELLO, b"\1")  # a message that is there comes before this answer
            self._await(_HELLO)
        while self._lent is None:
            if end is not None and not self._in:
                left = end - _time.monotonic()
                if left <= 0 or not _select.select([self._socket], [], [], left)[0]:
                    raise TimeoutError("no message")
            if self._frame() is not None:
                raise ConnectionError("yado: an answer that nobody asked for")
        return self._keep()

    def _keep(self):
        ask, sender, kind = _struct.unpack_from(">IIB", self._lent)
        data, self._lent, self._ask = self._lent[9:], None, 0
        if kind == 2:
            raise BufferError("so much of other ranks is unread that there is no room")
        if kind > 2:
            raise ConnectionError(f"yado: a message of kind {kind}")
        self._put(_TAKE, _struct.pack(">I", ask))
        if kind == 1:
            raise Gone(sender)
        return sender, data

    def _hear(self, rank):
        try:
            return self._recv(_BARRIER, rank, None)[1] == b"\1"
        except Gone:
            return False

    def _blob(self, kind, name, total, at, piece):
        name = name.encode()
        if not 0 < len(name) < 256:
            raise ValueError("the name of a blob: 1 to 255 of A-Z a-z 0-9 . _ -")
        self._put(kind, _struct.pack(">QQB", total, at, len(name)), name, piece)
        data = self._await(_BLOB)
        status, total, _ = _struct.unpack_from(">BQQ", data)
        if status == _ABSENT:
            raise KeyError(name.decode())
        if status == _NO_NAME:
            raise ValueError("the name of a blob: 1 to 255 of A-Z a-z 0-9 . _ -")
        if status == _REFUSED:
            raise ValueError("the blob is larger than a job may have")
        return status, total, data[17:]


def open(path=None):
    """The mail of this part. FileNotFoundError: it is no part of a job with mail."""
    return Mail(path)
