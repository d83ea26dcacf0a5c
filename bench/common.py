# SPDX-License-Identifier: Apache-2.0
"""What the benches share: the grid of the end-to-end tests over the build that is measured,
figures as a table, as JSON and as a plot."""
import json
import math
import os
import pathlib
import signal
import socket
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
OUT = BUILD / "bench"
os.environ.setdefault("YADO", str(BUILD / "yado"))
os.environ.setdefault("YADO_IMAGES", str(BUILD / "images"))
sys.path.insert(0, str(ROOT / "tests/e2e"))

from grid import Grid  # noqa: E402  the environment above is read when it is imported

Grid.priority = "idle"


def limit(seconds):
    """From now on; instead of the limit before."""
    signal.alarm(seconds)


def time_is_over(*_):
    raise TimeoutError("the bench took longer than it may")


def told_to_end(*_):
    raise SystemExit("the bench was told to end")


# Raised as exceptions, so that the grid is taken down.
signal.signal(signal.SIGALRM, time_is_over)
signal.signal(signal.SIGTERM, told_to_end)
limit(900)


def now_us():
    return time.monotonic_ns() // 1000


def owner_leaves(state):
    """`yado owner leave`, without the start of a process; the moment of the event."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{state}/owner.sock")
        at = now_us()
        s.sendall(json.dumps({"cmd": "leave", "at_us": at}).encode() + b"\n")
        s.recv(4096)
    return at


def percentile(values, p):
    """The smallest of the values that p percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * p / 100) - 1)]


def summary(values):
    return {"median": round(statistics.median(values), 2), "p99": round(percentile(values, 99), 2),
            "n": len(values)}


def table(title, header, rows):
    rows = [[str(c) for c in r] for r in rows]
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for r in [header, ["-" * w for w in widths], *rows]:
        print("  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(r, widths))))
    sys.stdout.flush()


def write(name, figures):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


def write_plot(name, title, xlabel, ylabel, settings, series, drawn):
    """Points (x, y) of each series, drawn as gnuplot is told to."""
    lines = ["set terminal svg size 800,450 background 'white'", f"set output '{name}.svg'",
             f"set title \"{title}\"", f"set xlabel \"{xlabel}\"", f"set ylabel \"{ylabel}\"",
             "set grid", *settings]
    for i, points in enumerate(series.values()):
        lines += [f"$d{i} << EOD", *(f"{x} {y}" for x, y in points), "EOD"]
    lines.append("plot " + ", ".join(f"$d{i} using 1:2 with {drawn} lw 2 title \"{label}\""
                                     for i, label in enumerate(series)))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.gnuplot").write_text("\n".join(lines) + "\n")


def plot(name, title, unit, series):
    """The distribution of each series of values: {label: [value, ...]}."""
    write_plot(name, title, unit, "percent of all",
               ["set yrange [0:100]", "set xrange [0:]", "set key bottom right"],
               {label: [(v, 100 * (k + 1) / len(values)) for k, v in enumerate(sorted(values))]
                for label, values in series.items()}, "steps")


def plot_lines(name, title, xlabel, ylabel, series, settings=("set logscale y", "set xrange [0:]")):
    """Points of each series, {label: [(x, y), ...]}; by default over several orders of magnitude
    of y."""
    write_plot(name, title, xlabel, ylabel, [*settings, "set key outside right"], series,
               "linespoints")


class Bounds:
    """What was promised: collects what was missed, and is the exit status."""

    def __init__(self):
        self.missed = []

    def check(self, what, value, bound):
        if value > bound:
            self.missed.append(f"{what} is {value}, above {bound}")

    def exit(self):
        for line in self.missed:
            print(f"  MISSED: {line}")
        sys.exit(bool(self.missed))
