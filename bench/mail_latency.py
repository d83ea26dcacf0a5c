# SPDX-License-Identifier: Apache-2.0
"""Mail between real guests on two PCs of this machine, with a master whose storage is durable: how
long a message of 64 bytes takes, for how long a ring of eight stands when one of its ranks moves,
and what eight guests cost that wait for mail. Part of bench/mail."""
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
RING, MOVES, MOVE_LAPS, SLOW_MS = 8, 8, 450, 70
WAIT_SECONDS = 8
TICKS = os.sysconf("SC_CLK_TCK")


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


# ---- a ring of two, whose hop is one message ------------------------------------------------------

def submit(g, parts, *command, options=()):
    return g.submit("--parts", parts, "--memory", "96M", "--input", APPS / "ring", *options, "--",
                    *command)


def ended(g, job):
    states = [p["state"] for p in g.parts(job)]
    assert "failed" not in states, g.log(job)
    return all(s == "done" for s in states)


def hops(log):
    """(median, p99) of a hop in ms."""
    found = re.search(r"median=([\d.]+) p99=([\d.]+)", log.splitlines()[-1])
    return float(found[1]) / 1000, float(found[2]) / 1000


def ring_of_two(g, laps, *options):
    """A hop in ms, and what the supervisors logged meanwhile, rank by rank."""
    job = submit(g, 2, "/in/ring", "--laps", laps, options=options)
    logs = ["", ""]

    def done():
        for part in range(2):
            for path in g.dir.glob(f"pc-*/vm/{job}.{part}.*/supervisor.log"):
                text = path.read_text(errors="replace")
                logs[part] = max(logs[part], text, key=len)
        return ended(g, job)
    wait_for("the ring to be done", done, 240, 0.2)
    return (*hops(g.log(job, 0, "out")), logs)


def own_ms(logs):
    """From one supervisor to the other, of each message of both directions."""
    def at(log, what):
        return {int(n): int(us) for n, us in re.findall(rf"mail: {what} (\d+) at (\d+) us", log)}
    took = []
    for a, b in ((0, 1), (1, 0)):  # the n-th that one sends is the n-th that the other gets
        sent, came = at(logs[a], "sent"), at(logs[b], "came")
        took += [(came[n] - sent[n]) / 1000 for n in sent if n in came]
    return took


def latency():
    with TalkingGrid(pcs=2) as g:
        sync_ms = fdatasync_ms(g.dir)
        ring_of_two(g, 20)  # the golden layer is made, and everything is warm
        median, p99, logs = ring_of_two(g, LAPS)
        own = own_ms(logs)
        committed, _, _ = ring_of_two(g, 5, "--mail", "committed")
    path = statistics.median(own)
    return {"latency_ms": {"median": round(median, 2), "p99": round(p99, 2), "n": LAPS},
            "path_ms": round(path, 2), "fdatasync_ms": round(sync_ms, 2),
            "own_share_ms": round(path - sync_ms, 2), "own_n": len(own),
            "committed_latency_ms": round(committed, 1)}


# ---- a ring of eight ------------------------------------------------------------------------------

def run_all(g, job, count):
    return wait_for("all to run", lambda: [p["state"] for p in g.parts(job)] ==
                    ["running"] * count and g.parts(job), 120)


def slow_laps(g, job):
    return [float(ms) for ms in re.findall(r"lap \d+ took ([\d.]+) ms", g.log(job, 0, "out"))]


def first_word_ms(g, job, rank):
    """From running to what the guest said first, in its newest placement."""
    def at(clock):
        h, m, s = clock.split(":")
        return (int(h) * 60 + int(m)) * 60 + float(s)
    newest = max(g.dir.glob(f"pc-*/vm/{job}.{rank}.*"), key=lambda p: int(p.name.split(".")[2]))
    run, word = wait_for(f"{newest.name} to say something", lambda: re.search(
        r"(\S+) supervisor: running\n(?:.*\n)*?(\S+) supervisor: debug: guest: phase",
        (newest / "supervisor.log").read_text(errors="replace"))).groups()
    return (at(word) - at(run)) % 86400 * 1000


def move_one(g):
    """One rank after the other goes to another PC while the token goes round. Of each move: what it
    took until its guest was running, and until it said something; how much longer than others the
    lap was that had to wait for it, in ms. And a lap of others."""
    job = submit(g, RING, "/in/ring", "--laps", MOVE_LAPS, "--pause", 2, "--slow", SLOW_MS)
    run_all(g, job, RING)
    time.sleep(2)  # what a start does has been done
    seen, words = [len(slow_laps(g, job))], []
    for i in range(MOVES):
        at = [p["pc"] for p in g.parts(job)]
        rank = 1 + i % (RING - 1)
        g.yado("move", f"{job}.{rank}", next(  # a PC has room for two
            pc for pc in g.agents if pc != at[rank] and at.count(pc) < 2))
        wait_for(f"move {i + 1}", lambda: len(g.moves(job)) > i, 60)
        time.sleep(1)  # the others have gone on by then
        seen.append(len(slow_laps(g, job)))
        words.append(first_word_ms(g, job, rank))
    assert not ended(g, job), "more laps are needed"
    slow, moves = slow_laps(g, job), [m["total_ms"] for m in g.moves(job)]
    wait_for("the ring to be done", lambda: ended(g, job), 240, 0.2)
    lap = hops(g.log(job, 0, "out"))[0] * RING
    return (moves, [m + w for m, w in zip(moves, words)],
            [max(slow[a:b], default=lap) - lap for a, b in zip(seen, seen[1:])], lap)


# ---- guests that wait -----------------------------------------------------------------------------

def cpu_ms(g):
    """What the master, what agents, supervisors and pagers, and what guests have used so far."""
    used = {"master": 0, "agents": 0, "guests": 0}
    for pid in g.pids(str(g.dir)):
        try:
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        who = ("guests" if b"qemu" in line.split(b"\0")[0] else
               "master" if pid == g.master.pid else "agents")
        used[who] += int(stat[11]) + int(stat[12])
    return {who: ticks * 1000 / TICKS for who, ticks in used.items()}


def waiting(g, *command):
    """Milliseconds of CPU a second while eight guests run this."""
    job = submit(g, RING, *command)
    run_all(g, job, RING)
    time.sleep(2)  # what a start does has been done
    before = cpu_ms(g)
    time.sleep(WAIT_SECONDS)
    after = cpu_ms(g)
    g.yado("cancel", job)
    wait_for("the guests to be gone", lambda: not g.pids("qemu-system", f"/{job}."), 60)
    return {who: round((after[who] - before[who]) / WAIT_SECONDS, 1) for who in after}


def measure():
    figures = latency()
    with TalkingGrid(pcs=5, memory="300M") as g:
        moves, words, delays, lap = move_one(g)
    with Grid(pcs=5, memory="300M") as g:
        waits = {name: waiting(g, *command) for name, command in
                 (("sleep", ("sleep", "1000")), ("recv", ("yado-msg", "recv")))}
    figures.update({"move_ms": common.summary(moves), "move_word_ms": common.summary(words),
                    "move_delay_ms": common.summary(delays), "lap_ms": round(lap, 1),
                    "waiting_cpu_ms_per_s": waits})
    common.table("mail: 64 bytes from guest to guest", ["", "ms", "bound"], [
        ["median", figures["latency_ms"]["median"], 3],
        ["99th percentile", figures["latency_ms"]["p99"], ""],
        ["between the supervisors, less an fdatasync", figures["own_share_ms"], 1],
        ["one fdatasync", figures["fdatasync_ms"], ""],
        ["mail: committed, median", figures["committed_latency_ms"], ""]])
    common.table(f"mail: {MOVES} moves of one rank in a ring of {RING}", ["", "median ms", "p99"], [
        ["a lap of the token", figures["lap_ms"], ""],
        *([text, figures[key]["median"], figures[key]["p99"]] for text, key in (
            ("a move, from stopped to running", "move_ms"),
            ("... to what its guest says first", "move_word_ms"),
            ("what the lap that waits for it takes longer", "move_delay_ms")))])
    common.table(f"mail: {RING} guests that wait, ms of CPU a second", ["", "sleep", "recv"], [
        [who, waits["sleep"][who], waits["recv"][who]] for who in waits["recv"]])
    return figures
