# SPDX-License-Identifier: Apache-2.0
"""The rows of bench/migrate: which there are, in the order of their worth, and a file that keeps
those that have been measured, so that the matrix fills over several sittings. A row is measured as
a whole, and bears the day, the build and the machine."""
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess

import common
from sweeper import MIB

LINKS = {"loopback": None, "1gbit": 10**9 / 8}  # bytes a second
SIZES, RATES, WAYS = [180, 344, 509, 675, 1024, 2048], [0, 5, 50], ["stock", "ours", "ours-first"]
# Table 4, its program without swap: seconds, by MB of memory.
PAPER_S = {180: 209, 344: 218.5, 509: 265, 675: 264.8}
COLUMNS = ["stop_ms", "free_ms", "sent_bytes", "search_ms", "resume_ms", "total_ms", "lost_60s_ms",
           "limit_ms"]
BESIDE = ["changed_bytes", "dirtied_mb_s", "swept_mb_s", "watched_s"]  # what explains the columns
SPREAD = ["free_ms", "resume_ms", "total_ms", "lost_60s_ms"]  # kept of each move, too
LABELS = {"stock": "stock QEMU", "ours-first": "yado, no checkpoint",
          "ours": "yado, checkpoint 30 s old"}
PLOTTED = ("1gbit", 5)
CLOSER_MB = 675
CLOSER = [("guest stopped, ms", "stop_ms", 1, 0),
          ("the owner's PC free again, ms", "free_ms", 1, 0),
          ("of the total, the resume, ms", "resume_ms", 1, 0), ("sent, MB", "sent_bytes", 10**6, 0),
          ("progress lost in the minute after, ms", "lost_60s_ms", 1, 0)]
MARKS = "<!-- by make figures -->", "<!-- end -->"


def key(row):
    return (row["link"], row["mb"], row["dirty_mb_s"], row["way"])


def name(row_key):
    link, mb, dirty, way = row_key
    return f"{link} {mb} MB, {dirty} MB/s, {way}"


def worth(cell):
    """Of (link, mb, dirty): cells with a bound of their own, what is plotted, then the rest."""
    link, mb, dirty = cell
    first = [("1gbit", 675, 5), ("loopback", 180, 5), ("loopback", 2048, 5)]
    return (first.index(cell) if cell in first else len(first), [5, 50, 0].index(dirty)
            if dirty in RATES else len(RATES), link != "1gbit", mb)


def machine():
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True,
                          text=True).stdout.split()[3]
    return (f"{len(os.sched_getaffinity(0))} cores, {cpu[1] if cpu else platform.machine()}, "
            f"Linux {platform.release()}, QEMU {qemu}, TCG")


def build():
    """The last change of the sources, whatever became of documents since."""
    def git(*words):
        return subprocess.run(["git", "-C", common.ROOT, *words, "--", "src"], capture_output=True,
                              text=True).stdout.strip()
    return git("log", "-1", "--format=%h") + ("-dirty" if git("status", "--porcelain") else "")


def median(moves, column):
    values = [m[column] for m in moves if m[column] is not None]
    return round(statistics.median(values), 1) if values else None


class Rows:
    """Those of one file, written after each change."""

    def __init__(self, path):
        self.path, self.by_key = path, {}
        if path.exists():
            self.by_key = {key(r): r for r in json.loads(path.read_text())["rows"]}
        self.stamp = {"date": datetime.date.today().isoformat(), "build": build(),
                      "machine": machine()}

    def __iter__(self):
        return iter(self.by_key[k] for k in sorted(self.by_key))

    def has(self, row_key, count):
        """Enough moves; one whose memory was wrong is not measured again until it is right."""
        row = self.by_key.get(row_key)
        return row is not None and (row["moves"] >= count or row["moves"] and not row["verified"])

    def failed(self, row_key):
        return self.by_key.get(row_key, {}).get("failed", [])

    def put(self, row_key, moves, failed):
        """Medians over the moves that went well; of the others it says what became of them."""
        good = [m for m in moves if m["verified"]]
        figures = {c: median(good, c) for c in [*COLUMNS, *BESIDE]}
        self.by_key[row_key] = {
            **dict(zip(("link", "mb", "dirty_mb_s", "way"), row_key)), **figures,
            "verified": len(good) == len(moves) > 0, "moves": len(moves), "failed": failed,
            "each": {c: [round(m[c], 1) for m in good] for c in SPREAD}, **self.stamp}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in self)
        new = self.path.with_suffix(".new")
        new.write_text(f'{{"rows": [\n{lines}\n]}}\n')
        new.replace(self.path)

    def show(self):
        def cell(row, column):
            if column == "sent_bytes" and row[column] is not None:
                return round(row[column] / 1e6, 1)
            return "" if row[column] is None else row[column]
        common.table("migrate: medians, ms; sent in MB; the paper's total in s", [
            "", "moves", *(c.removesuffix("_ms").removesuffix("_bytes") for c in COLUMNS),
            "verified", "paper"], [
                [name(key(r)), r["moves"], *(cell(r, c) for c in COLUMNS), r["verified"],
                 PAPER_S.get(r["mb"], "")] for r in self])
        for text in sorted({f"{r['date']}, build {r['build']}: {r['machine']}" for r in self}):
            print(f"  measured {text}")

    def plot(self):
        series = {"the paper, 2009": sorted(PAPER_S.items())}
        for way, label in LABELS.items():
            points = [(r["mb"], r["total_ms"] / 1000) for r in self if r["total_ms"]
                      and (r["link"], r["dirty_mb_s"], r["way"]) == (*PLOTTED, way)]
            if points:
                series[label] = points
        common.plot_lines("migrate", "A guest moves, 1 Gbit/s, 5 MB/s rewritten",
                          "MB held by the program", "seconds, owner's event to running elsewhere",
                          series, ["set logscale y", "set xrange [0:2200]"])

    def markdown(self):
        """What is plotted, beside the paper's Table 4; and one of its guests closer."""
        def line(mb, text, paper, column, unit, digits):
            cells = [self.by_key.get((PLOTTED[0], mb, PLOTTED[1], way), {}).get(column)
                     for way in LABELS]
            return " | ".join([f"| {mb} MB: {text}", paper, *(
                "" if c is None else f"{c / unit:.{digits}f}" for c in cells)]) + " |"
        shown = [r for r in self if (r["link"], r["dirty_mb_s"]) == PLOTTED]
        sizes = sorted({r["mb"] for r in shown})
        lines = [f"| | the paper | {' | '.join(LABELS.values())} |",
                 "|---" * (2 + len(LABELS)) + "|"]
        lines += [line(mb, "total, s", str(PAPER_S.get(mb, "")), "total_ms", 1000, 2)
                  for mb in sizes]
        lines += [line(CLOSER_MB, text, "", *rest) for text, *rest in CLOSER if CLOSER_MB in sizes]
        counts, days, machines = ({r[k] for r in shown} for k in ("moves", "date", "machine"))
        if shown:
            when = " to ".join(sorted({min(days), max(days)}))
            lines += ["", f"Medians of {min(counts)} or more moves, {when}, on "
                      + "; ".join(sorted(machines)) + "."]
        return "\n".join(lines)

    def draw(self, svg, readme):
        """The plot, and the tables in a text between two marks."""
        self.plot()
        subprocess.run(["gnuplot", "migrate.gnuplot"], cwd=common.OUT, check=True)
        shutil.copy(common.OUT / "migrate.svg", svg)
        before, rest = readme.read_text().split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        readme.write_text(f"{before}{MARKS[0]}\n{self.markdown()}\n{MARKS[1]}{after}")

    def check(self):
        """What was promised, as far as it was measured."""
        bounds = common.Bounds()
        for row in self:
            for why in row["failed"]:
                bounds.missed.append(f"{name(key(row))}: a move failed: {why}")
            if not row["verified"] and row["moves"]:
                bounds.missed.append(f"{name(key(row))}: the guest's memory is wrong")
            if row["way"] != "stock" and row["total_ms"] is not None:
                self.check_ours(bounds, row)
        return bounds

    def check_ours(self, bounds, r):
        link, mb, dirty, way = key(r)

        def beside(mb, way):
            other = self.by_key.get((link, mb, dirty, way))
            return other if other and other["total_ms"] is not None else None

        def bound(column, most):
            bounds.check(f"{name(key(r))}: {column}", r[column], round(most, 1))
        stock, small = beside(mb, "stock"), beside(180, way)
        if stock:
            bound("lost_60s_ms", stock["total_ms"])
        if link == "loopback":
            bound("resume_ms", 150)
            if mb == 2048 and small:
                bound("resume_ms", 1.5 * small["resume_ms"])
            return
        per_ms = LINKS[link] / 1000
        bound("lost_60s_ms", 1.3 * mb * MIB / per_ms + 500)
        bound("free_ms", 1.3 * r["sent_bytes"] / per_ms + 200)
        if key(r) == ("1gbit", 675, 5, "ours"):
            bound("total_ms", 1.5 * r["limit_ms"] + 300)
            if stock:
                bound("total_ms", stock["total_ms"] / 10)
