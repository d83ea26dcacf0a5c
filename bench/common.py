# SPDX-License-Identifier: Apache-2.0
"""What the benches share: the grid of the end-to-end tests over the build that is measured,
figures as a table, as JSON and as a plot."""
import json
import math
import os
import pathlib
import signal
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
OUT = BUILD / "bench"
os.environ.setdefault("YADO", str(BUILD / "yado"))
os.environ.setdefault("YADO_IMAGES", str(BUILD / "images"))
sys.path.insert(0, str(ROOT / "tests/e2e"))


def too_long(*_):
    raise TimeoutError("the bench took longer than 15 minutes")


# Raised as an exception, so that the grid is taken down.
signal.signal(signal.SIGALRM, too_long)
signal.alarm(900)


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


def plot(name, title, unit, series):
    """The distribution of each series of values: {label: [value, ...]}."""
    lines = [f"set terminal svg size 800,450 background 'white'", f"set output '{name}.svg'",
             f"set title \"{title}\"", f"set xlabel '{unit}'", "set ylabel 'percent of all'",
             "set yrange [0:100]", "set xrange [0:]", "set key bottom right", "set grid"]
    for i, values in enumerate(series.values()):
        lines.append(f"$d{i} << EOD")
        lines += [f"{v} {100 * (k + 1) / len(values)}" for k, v in enumerate(sorted(values))]
        lines.append("EOD")
    lines.append("plot " + ", ".join(f"$d{i} using 1:2 with steps lw 2 title \"{label}\""
                                     for i, label in enumerate(series)))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.gnuplot").write_text("\n".join(lines) + "\n")


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
