# SPDX-License-Identifier: Apache-2.0
"""The master's mail of one part, for tests of a supervisor and its guest: what the part sends goes
into one list, what the test posts into its mailbox (docs/protocol.md, mail)."""
import json
import re
import struct
import threading
import time
import urllib.parse


class Mail:
    def __init__(self):
        self.sent = []       # (to, body), number 1 first
        self.differs = []    # numbers that came again with another body
        self.box = []        # (from, kind, body), position 1 first
        self.blobs = {}
        self.requests = []   # (method, first number or position)
        self.status = None   # answers nothing but this
        self.hold_s = 2
        self.changed = threading.Condition()

    def post(self, body, sender=1, kind=0):
        with self.changed:
            self.box.append((sender, kind, b"\0" + body if kind == 0 else b""))
            self.changed.notify_all()

    def texts(self):
        return [body[1:].decode() for _, body in list(self.sent)]

    def take(self, batch):
        """A POST; the number of the last message that is here."""
        with self.changed:
            self.requests.append(("POST", struct.unpack_from(">Q", batch)[0]))
            at = 0
            while at < len(batch):
                number, to, size = struct.unpack_from(">QII", batch, at)
                body = batch[at + 16:at + 16 + size]
                assert len(body) == size and number <= len(self.sent) + 1, (number, len(self.sent))
                at += 16 + size
                if number == len(self.sent) + 1:
                    self.sent.append((to, body))
                elif self.sent[number - 1] != (to, body):
                    self.differs.append(number)
            self.changed.notify_all()
            return len(self.sent)

    def give(self, first, limit):
        """A GET: held until there is something, or for hold_s."""
        end, batch = time.monotonic() + self.hold_s, b""
        with self.changed:
            self.requests.append(("GET", first))
            while len(self.box) < first and (left := end - time.monotonic()) > 0:
                self.changed.wait(left)
            for position in range(first, len(self.box) + 1):
                sender, kind, body = self.box[position - 1]
                record = struct.pack(">QIB3xI", position, sender, kind, len(body)) + body
                if batch and len(batch) + len(record) > limit:
                    break
                batch += record
        return batch

    def serve(self, handler, method, what):
        """True when the request was mail's and is answered."""
        url = urllib.parse.urlsplit(what)
        if url.path.split("/")[0] != "mail":
            return False
        if method in ("POST", "PUT"):
            body = handler.body()
        if self.status:
            handler.refuse(self.status)
            return True
        name = re.fullmatch(r"mail/blobs/([A-Za-z0-9._-]{1,255})", url.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if method == "POST" and url.path == "mail":
            handler.answer(200, json.dumps({"have": self.take(body)}).encode())
        elif method == "GET" and url.path == "mail":
            handler.answer(200, self.give(int(query["from"]), int(query["bytes"])))
        elif method == "PUT" and name:
            handler.answer(201 if self.blobs.setdefault(name[1], body) == body else 412)
        elif method == "GET" and name and name[1] in self.blobs:
            handler.answer(200, self.blobs[name[1]])
        else:
            handler.refuse(404)
        return True
