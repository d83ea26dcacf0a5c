# SPDX-License-Identifier: Apache-2.0
"""How long a message of 64 bytes takes from guest to guest: a ring of two, whose hop is one message.
Both guests, both agents and the master are on this PC, over loopback; storage is durable. What is
ours of it, from the sender's supervisor to the receiver's, is read off the supervisors' logs; one
fdatasync of the same disk is taken off."""
import os
import pathlib
import re
import statistics
import time

import common
from grid import YADO, Grid, wait_for

APPS = pathlib.Path(YADO).resolve().parent / "apps/talk"
LAPS = int(os.environ.get("BENCH_COUNT", "300"))
SYNCS = 100


class TalkingGrid(Grid):
    def daemon_env(self, name):
        return self.env if name == "master" else dict(self.env, YADO_LOG="debug")


def fdatasync_ms(folder):
    """Of some bytes behind each other, as a log is written."""
    took = []
    with open(folder / "sync", "wb") as f:
        for _ in range(SYNCS):
            f.write(b"x" * 200)
            f.flush()
            begin = time.monotonic()
            os.fdatasync(f.fileno())
            took.append((time.monotonic() - begin) * 1000)
    return statistics.median(took)


def ring(g, laps, *options):
    """(median, p99) of a hop in ms, and what the supervisors logged meanwhile, rank by rank."""
    job = g.submit("--parts", 2, "--memory", "96M", "--input", APPS / "ring", *options, "--",
                   "/in/ring", "--laps", laps)
    logs = ["", ""]

    def done():
        for part in range(2):
            for path in g.dir.glob(f"pc-*/vm/{job}.{part}.*/supervisor.log"):
                text = path.read_text(errors="replace")
                logs[part] = max(logs[part], text, key=len)
        return all(p["state"] == "done" for p in g.parts(job))
    wait_for("the ring to be done", done, 240, 0.2)
    line = g.log(job, 0, "out").splitlines()[-1]
    found = re.search(r"median=([\d.]+) p99=([\d.]+)", line)
    return float(found[1]) / 1000, float(found[2]) / 1000, logs


def own_ms(logs):
    """From one supervisor to the other, of each message of both directions."""
    def at(log, what):
        return {int(n): int(us) for n, us in re.findall(rf"mail: {what} (\d+) at (\d+) us", log)}
    took = []
    for a, b in ((0, 1), (1, 0)):  # the n-th that one sends is the n-th that the other gets
        sent, came = at(logs[a], "sent"), at(logs[b], "came")
        took += [(came[n] - sent[n]) / 1000 for n in sent if n in came]
    return took


def measure():
    with TalkingGrid(pcs=2) as g:
        sync_ms = fdatasync_ms(g.dir)
        ring(g, 20)  # the golden layer is made, and everything is warm
        median, p99, logs = ring(g, LAPS)
        own = own_ms(logs)
        committed, _, _ = ring(g, 5, "--mail", "committed")
    path = statistics.median(own)
    figures = {"latency_ms": {"median": round(median, 2), "p99": round(p99, 2), "n": LAPS},
               "path_ms": round(path, 2), "fdatasync_ms": round(sync_ms, 2),
               "own_share_ms": round(path - sync_ms, 2), "own_n": len(own),
               "committed_latency_ms": round(committed, 1)}
    common.table("mail: 64 bytes from guest to guest", ["", "ms", "bound"], [
        ["median", figures["latency_ms"]["median"], 3],
        ["99th percentile", figures["latency_ms"]["p99"], ""],
        ["between the supervisors, less an fdatasync", figures["own_share_ms"], 1],
        ["one fdatasync", figures["fdatasync_ms"], ""],
        ["mail: committed, median", figures["committed_latency_ms"], ""]])
    return figures
