# SPDX-License-Identifier: Apache-2.0
"""What a master takes of mail: supervisors of many parts are played on loopback, over HTTPS, with
grants of real placements; every message is durable at the master before it counts, and is read.
Part of bench/mail."""
import multiprocessing
import os
import pathlib
import re
import statistics
import struct
import time

import requests

from api import ApiGrid, FakePC

MIB = 1 << 20
TURNS, SECONDS = 6, 4
PC_GUESTS = 1000  # a sync holds 1024


HEAD = struct.Struct(">QII")


def batch(seq, to, count, body):
    return b"".join(HEAD.pack(seq + i, to, len(body)) + body for i in range(count))


def session(ca, grant):
    s = requests.Session()
    s.trust_env = False
    s.verify = ca
    s.headers["Authorization"] = f"Bearer {grant}"
    return s


def send(url, ca, grant, to, count, body, until, at):
    """A supervisor's sending thread: one batch after the other, each acknowledged."""
    s, seq = session(ca, grant), at.value + 1
    while time.monotonic() < until:
        r = s.post(url, data=batch(seq, to, count, body), timeout=60)
        assert r.status_code == 200, r.text
        at.value = r.json()["have"]
        seq = at.value + 1


def read(url, ca, grant, size, until, at):
    """... and its reading thread."""
    s, position = session(ca, grant), at.value + 1
    while time.monotonic() < until:
        r = s.get(url, params={"from": position, "bytes": 8 * MIB, "wait": 500}, timeout=60)
        assert r.status_code in (200, 204), r.text
        position += len(r.content) // (20 + size)
        at.value = position - 1


def resident_mb(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)[1]) / 1024


class Load:
    """Jobs of some parts each, on as many PCs as it takes."""

    def __init__(self, grid, pcs, jobs, parts=2):
        self.g, self.pcs, self.run_ms, self.parents = grid, pcs, 0, {}
        while len(pcs) * PC_GUESTS < jobs * parts:
            pcs.append(FakePC(grid, f"pc-{len(pcs)}", memory=1 << 50, cpus=PC_GUESTS))
            pcs[-1].sync()
        self.jobs = [grid.submit_api(parts=parts, memory="96M") for _ in range(jobs)]
        for pc in pcs:  # one of them makes the golden layer, if there is none yet
            pc.sync()
            if any(k[0] == 0 for k in pc.desired):
                pc.build_golden()
                break
        self.at = {}  # (job, part, epoch) -> PC
        for pc in pcs:
            if not pc.desired:
                pc.sync()
            for key in [k for k in pc.desired if k[0] in self.jobs]:
                self.at[key] = pc
                pc.vm(key, "running")
            pc.sync()
        assert len(self.at) == jobs * parts
        self.keys = {k[:2]: k for k in self.at}
        self.sent, self.got = (dict.fromkeys(self.keys) for _ in range(2))

    def place(self, *part):
        key = self.keys[part]
        pc = self.at[key]
        return (f"{self.g.url}/v1/vm/%d.%d.%d/mail" % key, pc.session.verify,
                pc.desired[key]["grant"])

    def checkpoint(self, parts):
        """A layer of each of these parts, as their agents make them now and then."""
        self.run_ms += 1000
        for part in parts:
            key = self.keys[part]
            pc, at = self.at[key], self.parents.get(key)
            layer = pc.layer(key, os.urandom(64), run_ms=self.run_ms,
                             mail_sent=self.sent[part].value if self.sent[part] else 0,
                             mail_read=self.got[part].value + 1 if self.got[part] else 1,
                             **({"parent": at} if at else {}))
            self.parents[key] = layer["digest"]
            pc.vm(key, "running", layers=[layer])
        for pc in {self.at[self.keys[p]] for p in parts}:
            pc.sync()

    def run(self, pairs, count, size, seconds=None):
        """pairs: [((job, part), (job, part))], sender and receiver. Messages a second, both."""
        body = os.urandom(size)
        for sender, receiver in pairs:
            self.sent[sender] = self.sent[sender] or multiprocessing.Value("Q")
            self.got[receiver] = self.got[receiver] or multiprocessing.Value("Q")
        before = [(self.sent[a].value, self.got[b].value) for a, b in pairs]
        begin = time.monotonic()
        until = begin + (seconds or SECONDS)
        work = []
        for sender, receiver in pairs:
            work.append(multiprocessing.Process(target=send, args=(
                *self.place(*sender), receiver[1], count, body, until, self.sent[sender])))
            work.append(multiprocessing.Process(target=read, args=(
                *self.place(*receiver), size, until, self.got[receiver])))
        for p in work:
            p.start()
        while time.monotonic() < until - 1:
            time.sleep(0.5)
            self.checkpoint({part for pair in pairs for part in pair})
        for p in work:
            p.join()
            assert p.exitcode == 0
        took = time.monotonic() - begin
        return (sum(self.sent[a].value - was for (a, _), (was, _) in zip(pairs, before)) / took,
                sum(self.got[b].value - was for (_, b), (_, was) in zip(pairs, before)) / took)

    def end(self):
        for job in self.jobs:
            self.g.admin("POST", f"/v1/jobs/{job}/cancel", 200)
        for pc in self.pcs:
            pc.sync()
            pc.sync()


def disk_bytes_per_s(folder, seconds=2):
    """Sequential writing of 8 MiB at a time, each fdatasynced, as the log of mail does at its
    best."""
    path = pathlib.Path(folder) / "speed"
    data = os.urandom(8 * MIB)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        begin, written = time.monotonic(), 0
        while time.monotonic() - begin < seconds:
            written += os.write(fd, data)
            os.fdatasync(fd)
        return written / (time.monotonic() - begin)
    finally:
        os.close(fd)
        path.unlink()


def measure():
    with ApiGrid() as g:
        pcs = []
        load = Load(g, pcs, 2)
        pairs = [((j, 0), (j, 1)) for j in load.jobs]
        small, rss = [], []
        for _ in range(TURNS):
            small.append(load.run(pairs, 2000, 64))
            rss.append(resident_mb(g.master.pid))
        load.end()
        disk = [disk_bytes_per_s(g.dir)]
        load = Load(g, pcs, 1)
        large = load.run([((load.jobs[0], 0), (load.jobs[0], 1))], 7, MIB)
        load.end()
        disk.append(disk_bytes_per_s(g.dir))
    sent, read = (statistics.median(turn) for turn in zip(*small))
    return {"messages_per_s": round(sent), "messages_read_per_s": round(read),
            "bytes_per_s": round(large[0] * MIB), "bytes_read_per_s": round(large[1] * MIB),
            "disk_bytes_per_s": round(sum(disk) / 2), "master_rss_mb": [round(m, 1) for m in rss]}


# ---- beside many others ---------------------------------------------------------------------------

SIZES = {"groups": (1, 10, 100, 1000), "ranks": (2, 100, 1000, 10000)}
SAMPLES, BATCHES, BATCH = 3, 60, 1000


def cpu_s(pid):
    """What all its threads have used, to the nanosecond."""
    return sum(int(p.read_text().split()[0])
               for p in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def message_us(load, job, spread):
    """The master's CPU time for a message of 64 bytes from rank 0: to all others by turns, or to
    rank 1, which reads them as well."""
    url, ca, grant = load.place(job, 0)
    sender, parts = session(ca, grant), sum(k[0] == job for k in load.keys)
    read_url, _, read_grant = load.place(job, 1)
    reader, body = session(ca, read_grant), os.urandom(64)
    seq, took = 1, []
    for i in range(SAMPLES + 1):
        begin, first = cpu_s(load.g.master.pid), seq
        for _ in range(BATCHES):
            to = [1 + n % (parts - 1) if spread else 1 for n in range(seq, seq + BATCH)]
            data = b"".join(HEAD.pack(seq + n, to[n], len(body)) + body for n in range(BATCH))
            assert sender.post(url, data=data, timeout=60).json()["have"] == seq + BATCH - 1
            if not spread:
                r = reader.get(read_url, params={"from": seq, "bytes": 8 * MIB}, timeout=60)
                assert len(r.content) == BATCH * (20 + len(body))
            seq += BATCH
        took.append((cpu_s(load.g.master.pid) - begin) * 1e6 / (seq - first))
    return min(took[1:])  # the first one makes the group


def scaling():
    """The same beside many others: jobs that each have mail, or parts of one job."""
    figures = {"groups": [], "ranks": [], "spread": []}
    for kind, sizes in SIZES.items():
        for size in sizes:
            with ApiGrid() as g:
                load = Load(g, [], size if kind == "groups" else 1, size if kind == "ranks" else 2)
                for job in load.jobs[1:]:  # each of them has sent something
                    url, ca, grant = load.place(job, 0)
                    assert session(ca, grant).post(url, data=batch(1, 1, 1, b"x"),
                                                   timeout=60).status_code == 200
                figures[kind].append([size, round(message_us(load, load.jobs[0], False), 2)])
            if kind == "ranks":
                with ApiGrid() as g:
                    load = Load(g, [], 1, size)
                    figures["spread"].append(
                        [size, round(message_us(load, load.jobs[0], True), 2)])
    return figures
