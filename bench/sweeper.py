# SPDX-License-Identifier: Apache-2.0
"""The guest program of bench/migrate (bench/guest/sweeper.c), watched from outside: what it prints,
and when that came. From this: is its memory what it must be, and how much was it held up."""
import os
import subprocess
import threading
import time

from common import BUILD, now_us
from grid import YADO, wait_for

PROGRAM = BUILD / "bench/guest/sweeper"
HOT_MB = 50
PAGE, MIB = 4096, 1 << 20
BASELINE_S = 5   # of running undisturbed, to which progress is compared
CALM_S = 2       # at full speed for so long, and a whole sweep: nothing is held up any more
FULL_SPEED = 0.95
WINDOW_S = 60    # after the resume, in which what is lost counts
# Guests in the CPU class of everything else, as stock QEMU is: what this machine does besides
# disturbs all alike.
AGENT_ARGS = ["--priority", "normal"]


def guest_mb(mb):
    """Room for the kernel and its tables beside the program."""
    return (mb + mb // 16 + 160 + 31) // 32 * 32


def now():
    return now_us() / 1e6


def command(program, mb, dirty_mb_s, hot_mb=HOT_MB):
    return [str(program), str(mb), str(hot_mb), str(dirty_mb_s)]


class Watch:
    """Takes its output bit by bit, from any thread. Times are seconds of the monotonic clock."""

    def __init__(self):
        self.rest, self.undisturbed = b"", None  # since when it runs so
        self.ticks = []   # (when, pages read, pages rewritten)
        self.sweeps = []  # (when, number, pages rewritten, (sum, sum))
        self.broken = None

    def feed(self, data):
        at = now()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            kind, *words = line.decode().split()
            if kind == "f":
                self.undisturbed = at
            elif kind == "t":
                self.add(self.ticks, (at, int(words[0]), int(words[1])))
            elif kind == "s":
                self.add(self.sweeps, (at, int(words[0]), int(words[1]), tuple(words[2:])))
                if self.sweeps[-1][1] != len(self.sweeps):
                    self.broken = f"sweep {words[0]} came as number {len(self.sweeps)}"

    def add(self, lines, line):
        if lines and line[1] <= lines[-1][1]:
            self.broken = f"went back from {lines[-1]} to {line}"
        lines.append(line)

    def follow(self, stream):
        """Feeds what comes from a pipe, in a thread, until its end."""
        def run():
            while data := os.read(stream.fileno(), 65536):
                self.feed(data)
        threading.Thread(target=run, daemon=True).start()

    def last(self, lines, before):
        return next((line for line in reversed(lines) if line[0] <= before), None)

    def settled(self):
        """It has swept all of its memory, and has run undisturbed for long enough."""
        return self.sweeps and self.ticks[-1][0] - self.undisturbed > BASELINE_S + 1

    def speed(self, begin, end):
        """Pages read a second."""
        a, b = self.last(self.ticks, begin), self.last(self.ticks, end)
        return (b[1] - a[1]) / (b[0] - a[0]) if a and b and b[0] > a[0] else 0.0

    def longest_gap_ms(self, begin, end):
        """Between two ticks: as long as outside nothing was seen of it."""
        times = [t[0] for t in self.ticks if begin < t[0] < end]
        return max((b - a) * 1000 for a, b in zip(times, times[1:]))


class Job:
    """The program as a job of a grid, and its output."""

    def __init__(self, grid, mb, dirty_mb_s, hot_mb=HOT_MB, options=()):
        self.grid, self.watch = grid, Watch()
        self.id = grid.submit("--memory", f"{guest_mb(mb)}M", "--input", str(PROGRAM), *options, "--",
                              *command("/in/sweeper", mb, dirty_mb_s, hot_mb))
        self.logs = subprocess.Popen([*grid.net.enter("master"), YADO, "logs", str(self.id), "-f"],
                                     env=grid.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.watch.follow(self.logs.stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.logs.kill()
        self.logs.wait()

    def settle(self):
        wait_for("the guest to settle", self.watch.settled, 240)

    def part(self):
        return self.grid.parts(self.id)[0]

    def checkpoint(self):
        """A new one, when it counts; the part as the master has it then."""
        before = self.part()["checkpointed_ms"]
        self.grid.yado("checkpoint", self.id)
        return wait_for("the record", lambda: [
            p for p in [self.part()] if p["checkpointed_ms"] > before], 120)[0]

    def end(self):
        self.grid.yado("cancel", self.id)
        self.grid.wait_state(self.id, "cancelled")


class HeldUp:
    """What a move cost: of the time since the guest went on, that in which it would have come as
    far as it did at the speed that it had before."""

    def __init__(self, watch, event):
        self.watch, self.event = watch, event
        self.before = watch.speed(event - BASELINE_S, event)
        self.sweeps = len(watch.sweeps)

    def is_over(self, resumed):
        """A whole sweep that began after the resume has ended, and the speed is what it was."""
        w, now = self.watch, self.watch.ticks[-1][0]
        if len(w.sweeps) < self.sweeps + 2:
            return False
        begin = min(now - CALM_S, w.sweeps[-2][0])
        return begin > resumed and w.speed(begin, now) >= FULL_SPEED * self.before

    def lost_ms(self, stopped, resumed, until):
        last, now = (self.watch.last(self.watch.ticks, t) for t in (stopped, until))
        ran = stopped - last[0] + now[0] - resumed
        return max(0.0, 1000 * (ran - (now[1] - last[1]) / self.before))


def sums_are_right(mb, sweeps):
    """Whether each of these sweeps has read what must have been in memory."""
    lines = subprocess.run([PROGRAM, "--sums", str(mb), str(HOT_MB), *(str(s[2]) for s in sweeps)],
                           check=True, capture_output=True, text=True).stdout.splitlines()
    return [tuple(line.split()) for line in lines] == [s[3] for s in sweeps]


class Measured:
    """One move, from the owner's event on; the figures that both ways have in common."""

    def __init__(self, watch, row, event, changed_since=None):
        self.watch, self.row, self.event = watch, row, event
        self.held_up = HeldUp(watch, event)
        writes = watch.last(watch.ticks, event)[2]
        changed = row["mb"] * MIB
        if changed_since is not None:
            changed = min((writes - changed_since) * PAGE, HOT_MB * MIB)
        first = watch.last(watch.ticks, event - BASELINE_S)
        self.figures = {
            "changed_bytes": changed,
            "dirtied_mb_s": (writes - first[2]) * PAGE / MIB / (event - first[0]),
            "swept_mb_s": self.held_up.before * PAGE / MIB}

    def finish(self, **figures):
        """After the guest goes on: watches what is lost, and the memory."""
        f, held_up = self.figures | figures, self.held_up
        stopped, resumed = self.event + f["stop_ms"] / 1000, self.event + f["total_ms"] / 1000
        end = resumed + WINDOW_S
        while not held_up.is_over(resumed) and now() < end:
            time.sleep(0.1)
        until = self.watch.undisturbed = min(now(), end)
        f["lost_60s_ms"] = held_up.lost_ms(stopped, resumed, until)
        f["watched_s"] = until - resumed
        f["silent_ms"] = self.watch.longest_gap_ms(self.event - 1, resumed + 2)
        wait_for("a whole sweep", lambda: len(self.watch.sweeps) >= held_up.sweeps + 2, 240)
        f["verified"] = self.watch.broken is None and sums_are_right(
            self.row["mb"], self.watch.sweeps[held_up.sweeps - 1:])
        if self.watch.broken:
            print(f"  {self.watch.broken}")
        return f
