# SPDX-License-Identifier: Apache-2.0
"""The master's side of mail: order, exactly once across going back and kills, both modes, limits,
ends, blobs. PCs and guests are played by the test."""
import hashlib
import os
import random
import re
import struct
import threading
import time

import pytest
import requests

from api import ApiGrid, FakePC
from grid import wait_for

MIB = 1 << 20


def batch(seq, *messages):
    return b"".join(struct.pack(">QII", seq + i, to, len(body)) + body
                    for i, (to, body) in enumerate(messages))


def parse(data):
    """[(position, from, kind, body)]"""
    found = []
    while data:
        pos, sender, kind, size = struct.unpack(">QIB3xI", data[:20])
        found.append((pos, sender, kind, data[20:20 + size]))
        data = data[20 + size:]
    return found


class Rank:
    """A part's placement, and its guest's memory of mail."""

    def __init__(self, world, key):
        self.world, self.key = world, key
        self.grant = world.pc.desired[key]["grant"]
        self.number = key[1]
        s = self.session = requests.Session()
        s.trust_env = False
        s.verify = world.pc.session.verify
        s.headers["Authorization"] = f"Bearer {self.grant}"
        self.url = f"{world.g.url}/v1/vm/%d.%d.%d/mail" % key

    def post(self, seq, *messages, status=200):
        r = self.session.post(self.url, data=batch(seq, *messages), timeout=30)
        assert r.status_code == status, r.text
        return r.json().get("have") if status == 200 else r.json()["error"]

    def get(self, position, status=200, wait=0, size=MIB):
        r = self.session.get(self.url, params={"from": position, "bytes": size, "wait": wait},
                             timeout=30)
        assert r.status_code in (status if isinstance(status, tuple) else (status,)), r.text
        return parse(r.content) if r.status_code == 200 else []

    def read(self, position, count):
        """The bodies of so many messages from there on."""
        bodies = []
        while len(bodies) < count:
            got = self.get(position + len(bodies), status=(200, 204), wait=10000)
            assert [m[0] for m in got] == list(range(position + len(bodies),
                                                     position + len(bodies) + len(got)))
            bodies += [m[3] for m in got]
        return bodies

    def layer(self, sent, read):
        """A checkpoint that is durable and recorded."""
        pc = self.world.pc
        run_ms = self.world.run_ms = self.world.run_ms + 1000
        below = self.world.tops.get(self.number)
        layer = pc.layer(self.key, os.urandom(100), mail_sent=sent, mail_read=read, run_ms=run_ms,
                         **({"parent": below} if below else {}))
        pc.vm(self.key, "running", layers=[layer])
        pc.sync()
        pc.vm(self.key, "running")
        pc.sync()
        self.world.tops[self.number] = layer["digest"]

    def again(self):
        """It dies, and is placed again."""
        pc = self.world.pc
        pc.vm(self.key, "failed", reason="QEMU died")
        pc.sync()
        return self.world.rank(self.number)


class World:
    def __init__(self, g, parts=3, **spec):
        self.g, self.run_ms, self.tops = g, 0, {}
        self.pc = FakePC(g, "pc-1")
        self.pc.sync()
        self.job = g.submit_api(parts=parts, **spec)
        self.pc.build_golden()

    def sync(self):
        """All that is placed here runs: what a PC does not report is lost."""
        for key in self.pc.desired:
            if key[0] == self.job and key not in self.pc.vms:
                self.pc.vm(key, "running")
        self.pc.sync()

    def rank(self, number):
        self.sync()
        keys = [k for k in self.pc.desired if k[:2] == (self.job, number)]
        assert keys, (self.part(number), self.g.yado("events"))
        self.sync()
        return Rank(self, keys[0])

    def part(self, number):
        return self.g.admin("GET", f"/v1/jobs/{self.job}", 200).json()["parts_list"][number]

    def mailboxes(self):
        r = self.g.admin("GET", f"/v1/jobs/{self.job}/mail", 200)
        return {m["part"]: m for m in r.json()["mailboxes"]}

    def restart(self):
        self.g.master.kill()
        self.g.start_master()
        self.pc.sync()


@pytest.fixture
def g():
    with ApiGrid() as g:
        yield g


def test_messages_come_in_order_and_a_waiting_reader_is_woken(g):
    w = World(g)
    a, b, c = (w.rank(i) for i in range(3))
    assert c.get(1, status=204) == []
    got = []
    reader = threading.Thread(target=lambda: got.extend(c.get(1, wait=15000)))
    reader.start()
    assert a.post(1, (2, b"one"), (1, b"x"), (2, b"")) == 3
    reader.join(10)
    assert got == [(1, 0, 0, b"one"), (2, 0, 0, b"")]
    assert b.post(1, (2, b"three"), (1, b"to myself")) == 2
    assert c.get(3) == [(3, 1, 0, b"three")]
    assert b.get(1) == [(1, 0, 0, b"x"), (2, 1, 0, b"to myself")]
    assert a.post(2, (1, b"x"), (2, b"")) == 3  # a repeated batch changes nothing
    assert c.get(4, status=204) == []
    assert c.get(1, size=1) == [(1, 0, 0, b"one")]  # at least one
    box = w.mailboxes()[2]
    assert (box["received"], box["read"], box["unread"], box["sent"]) == (3, 0, 3, 0)
    assert box["in_per_s"] > 0 and w.mailboxes()[0]["out_per_s"] > 0
    a.layer(3, 1)
    w.restart()
    a, c = w.rank(0), w.rank(2)
    assert [m[3] for m in c.get(1)] == [b"one", b"", b"three"]
    assert a.post(4, (2, b"four")) == 4
    assert c.get(4) == [(4, 0, 0, b"four")]
    g.yado("cancel", str(w.job))
    assert c.get(4, status=409) == []


def test_a_part_that_goes_back_sends_and_reads_again(g):
    w = World(g)
    a, c = w.rank(0), w.rank(2)
    a.layer(0, 1)
    c.layer(0, 1)
    assert a.post(1, (2, b"one"), (2, b"two")) == 2
    assert c.read(1, 2) == [b"one", b"two"]
    old = a
    a, c = a.again(), c.again()
    old.post(3, (2, b"late"), status=409)
    old.get(1, status=409)
    assert c.read(1, 2) == [b"one", b"two"]
    assert a.post(1, (2, b"one")) == 1
    assert a.post(2, (2, b"two"), (2, b"three")) == 3
    assert c.read(3, 1) == [b"three"]
    a = a.again()
    assert "not deterministic: use mail: committed" in a.post(1, (2, b"other"), status=422)["message"]
    wait_for("the part to fail", lambda: w.part(0)["state"] == "failed")
    assert "not deterministic" in w.part(0)["reason"]
    w.pc.sync()
    assert a.key not in w.pc.desired


def test_committed_mail_leaves_with_the_layer_that_holds_it(g):
    w = World(g, mail="committed")
    a, b, c = (w.rank(i) for i in range(3))
    assert a.post(1, (2, b"one"), (2, b"two")) == 2
    assert c.get(1, status=204) == []
    wait_for("a checkpoint to be asked for",
             lambda: w.pc.sync() and w.pc.desired[a.key].get("checkpoint"))
    a.layer(1, 1)
    assert c.get(1, wait=5000) == [(1, 0, 0, b"one")]
    w.restart()
    a, b, c = (w.rank(i) for i in range(3))
    assert c.get(1) == [(1, 0, 0, b"one")]
    a = a.again()  # back to the layer: "two" was never sent
    assert a.post(2, (1, b"something else"), (2, b"three")) == 3
    assert w.mailboxes()[0]["pending"] == 2
    a.layer(3, 1)
    assert c.get(2, wait=5000) == [(2, 0, 0, b"three")]
    assert b.get(1) == [(1, 0, 0, b"something else")]


def test_what_is_not_allowed(g):
    w = World(g)
    a = w.rank(0)
    other = g.submit_api()
    w.pc.sync()
    stranger = Rank(w, w.pc.take(other))
    assert a.post(1, (1, b"secret")) == 1
    for url in (a.url, w.rank(1).url):  # another job's, with a grant of one's own
        for r in (stranger.session.get(url, timeout=10),
                  stranger.session.post(url, data=batch(2, (1, b"forged")), timeout=10),
                  stranger.session.get(f"{url}/blobs/x", timeout=10),
                  stranger.session.put(f"{url}/blobs/x", data=b"forged", timeout=10)):
            assert r.status_code in (403, 409) and b"secret" not in r.content
    assert w.rank(1).get(1) == [(1, 0, 0, b"secret")]
    assert stranger.get(1, status=204) == []
    for bad in (b"", b"short", batch(2, (0, b"x"))[:-1], batch(0, (0, b"x")),
                batch(2, (0, b"x")) + batch(5, (0, b"y")),
                struct.pack(">QII", 2, 0, 2 * MIB) + bytes(2 * MIB)):
        r = a.session.post(a.url, data=bad, timeout=10)
        assert r.status_code == 400, r.text
    r = a.session.post(a.url, data=bytes(9 * MIB), timeout=10)
    assert r.status_code == 413
    assert w.part(0)["state"] == "running"
    assert "does not exist" in a.post(2, (77, b"x"), status=422)["message"]
    wait_for("the part to fail", lambda: w.part(0)["state"] == "failed")
    b = w.rank(1)
    b.get(1 << 60, status=422)
    wait_for("the part to fail", lambda: w.part(1)["state"] == "failed")
    w.g.user("eve")("GET", f"/v1/jobs/{w.job}/mail", 404)


def test_a_part_that_fails_for_good_is_told_of(g):
    w = World(g, parts=3, retries=3)
    a, b, c = (w.rank(i) for i in range(3))
    assert b.post(1, (2, b"last")) == 1
    assert c.get(1) == [(1, 1, 0, b"last")]
    got = []
    reader = threading.Thread(target=lambda: got.extend(c.get(2, wait=15000)))
    reader.start()
    w.pc.vm(b.key, "done", exit_status=256)  # it has mail, and is not tried again
    w.pc.sync()
    reader.join(10)
    assert got == [(2, 1, 1, b"")]
    assert w.part(1)["state"] == "failed"
    assert a.post(1, (1, b"nobody reads this"), (2, b"on")) == 2
    assert c.get(3) == [(3, 0, 0, b"on")]
    w.restart()
    assert a.get(1, wait=5000) == [(1, 1, 1, b"")]
    w = World(w.g, parts=3, on_part_failure="fail")
    b = w.rank(1)
    w.pc.vm(b.key, "done", exit_status=256)
    w.pc.sync()
    w.pc.vms.clear()  # it stops the others
    w.pc.sync()
    wait_for("the others to end", lambda: [w.part(i)["state"] for i in range(3)] ==
             ["cancelled", "failed", "cancelled"])
    assert w.part(0)["reason"] == "part 1 failed"


def test_a_mailbox_that_nobody_reads_fills_up(g):
    w = World(g)
    a, b, c = (w.rank(i) for i in range(3))
    body, seq = os.urandom(MIB), 1
    for _ in range(20):
        sent = [(2, body)] * 4
        have = a.post(seq, *sent)
        seq = have + 1
        if have < seq + 3 and w.mailboxes()[2]["full"]:
            break
    assert 60 <= seq - 1 <= 65
    assert b.post(1, (0, b"nobody else waits")) == 1
    assert "mailbox is full" in g.yado("events")
    held = [0]

    def insist():  # as a supervisor does, whose request is held for a while
        while held[0] < seq:
            held[0] = a.post(seq, (2, b"small"))
    sender = threading.Thread(target=insist)
    sender.start()
    bodies = c.read(1, seq)
    assert bodies == [body] * (seq - 1) + [b"small"]
    sender.join(30)
    assert held == [seq] and c.get(seq + 1, status=204) == []
    assert not w.mailboxes()[2]["full"]
    assert re.search(rf"^ +2 +0 +0 +{seq} +0 ", g.yado("mail", str(w.job)), re.M)


def test_a_reader_that_keeps_too_much_is_saved(g):
    """256 MiB that were read are kept for going back; then a checkpoint is asked for, and nobody
    waits."""
    w = World(g)
    a, _, c = (w.rank(i) for i in range(3))
    body, seq = os.urandom(MIB), 0
    while seq < 270:
        assert a.post(seq + 1, *[(2, body)] * 6) == seq + 6
        assert c.get(seq + 1, size=8 * MIB) == [(seq + 1 + i, 0, 0, body) for i in range(6)]
        seq += 6
        if seq == 240:
            w.sync()
            assert not w.pc.desired[c.key].get("checkpoint")
    c.get(seq + 1, status=204)
    assert w.mailboxes()[2]["kept_bytes"] > 256 * MIB
    for at in (seq - 1, seq + 1):  # what the second newest layer reads on from is kept
        wait_for("a checkpoint of the reader",
                 lambda: w.pc.sync() and w.pc.desired[c.key].get("checkpoint"))
        c.layer(0, at)
    wait_for("the rest to be dropped", lambda: w.mailboxes()[2]["kept_bytes"] < 3 * MIB)
    assert not w.pc.desired[a.key].get("checkpoint")


def test_blobs_belong_to_the_job(g):
    w = World(g)
    a, b = w.rank(0), w.rank(1)

    def put(rank, name, data):
        return rank.session.put(f"{rank.url}/blobs/{name}", data=data, timeout=30).status_code

    def get(rank, name, **kw):
        return rank.session.get(f"{rank.url}/blobs/{name}", timeout=30, **kw)
    assert get(a, "x").status_code == 404
    assert put(a, "x", b"data" * 1000) == 201
    assert put(b, "x", b"other") == 412
    assert put(b, "x", b"data" * 1000) == 201  # the same put again, after going back
    assert put(a, "bad%20name", b"") == 400
    w.restart()
    assert get(b, "x").content == b"data" * 1000
    assert get(b, "x", headers={"Range": "bytes=4-7"}).content == b"data"
    other = g.submit_api()
    w.pc.sync()
    assert get(Rank(w, w.pc.take(other)), "x").status_code == 404


def test_blobs_of_a_job_that_ended_leave_the_depot(g):
    """As all that nothing needs: at a sweep, a day after they came."""
    w = World(g)
    a = w.rank(0)
    data = os.urandom(100000)
    digest = hashlib.sha256(data).hexdigest()
    assert a.session.put(f"{a.url}/blobs/x", data=data, timeout=30).status_code == 201

    def files():
        return list((g.dir / "master/depot" / digest[:2]).glob(f"{digest}*"))

    def a_day_later():
        old = time.time() - 25 * 3600
        for file in files():
            os.utime(file, (old, old))
        w.restart()
    a_day_later()
    assert w.rank(0).session.get(f"{a.url}/blobs/x", timeout=30).content == data
    g.yado("cancel", str(w.job))
    w.pc.vms.clear()  # it stops them
    w.pc.sync()
    wait_for("the job to be over", lambda: w.part(0)["state"] == "cancelled")
    assert files()
    a_day_later()
    wait_for("the sweep", lambda: not files())


def test_acknowledged_messages_survive_kills(g):
    """A sender and a reader of the same mailbox while the master is killed again and again."""
    seed = int(os.environ.get("YADO_SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    w = World(g)
    a, _, c = (w.rank(i) for i in range(3))
    acked, read = 0, []
    for life in range(6):
        killer = threading.Timer(rng.uniform(0.05, 0.4), w.g.master.kill)
        killer.start()
        try:
            while True:
                acked = max(acked, a.post(acked + 1, *[(2, b"%d" % (acked + 1 + i)) for i in
                                                       range(rng.randrange(1, 30))]))
                if rng.random() < 0.5:
                    read += [m[3] for m in c.get(len(read) + 1, status=(200, 204))]
        except requests.RequestException:
            pass
        killer.join()
        w.g.start_master()
        w.pc.sync()
        if rng.random() < 0.5:
            a, c = a.again(), c.again()
            again = [(2, b"%d" % (i + 1)) for i in range(acked)]
            assert not again or a.post(1, *again) == acked  # it says the same again
            seen, read = read, []
            read += c.read(1, len(seen)) if seen else []
            assert read[:len(seen)] == seen
        else:
            a, c = w.rank(0), w.rank(2)
    read += c.read(len(read) + 1, acked - len(read))
    assert read[:acked] == [b"%d" % (i + 1) for i in range(acked)] and acked > 50
