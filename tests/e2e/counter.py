# SPDX-License-Identifier: Apache-2.0
"""Jobs that count and compute, watched from outside: whatever happens to them, their logs are those
of one run."""
import re

from grid import wait_for

COUNTER = "i=0; while :; do i=$((i+1)); echo tick $i; usleep 50000; done"


def ticks_in(text):
    return [int(n) for n in re.findall(r"^tick (\d+)$", text, re.M)]


def check_whole(seen):
    """They are those of one run: none is missing, none comes twice."""
    assert seen and seen == list(range(1, len(seen) + 1)), \
        [(a, b) for a, b in zip(seen, seen[1:]) if b != a + 1][:5]


def ticks(grid, job):
    return ticks_in(grid.log(job, 0, "out"))


def wait_ticks(grid, job, more=10):
    seen = len(ticks(grid, job))
    wait_for("ticks", lambda: len(ticks(grid, job)) > seen + more)


def check_ticks(grid, job):
    check_whole(ticks(grid, job))


class Lehmer:
    """What it prints and its result are the same bits however often its PC dies."""

    def __init__(self, lines, every=20000):
        n = lines * every
        self.command = ["awk", f"BEGIN{{x=1; for(i=1;i<={n};i++){{x=(x*16807)%2147483647; "
                               f"if(i%{every}==0){{print i/{every}, x; fflush()}}}}; "
                               f"print x > \"/out/x\"}}"]
        self.lines, x = [], 1
        for i in range(1, n + 1):
            x = x * 16807 % 2147483647
            if i % every == 0:
                self.lines.append(f"{i // every} {x}")

    def check(self, grid, job, folder):
        assert grid.log(job, 0, "out").split("\n")[:-1] == self.lines
        grid.yado("results", job, folder)
        assert (folder / "x").read_text().strip() == self.lines[-1].split()[1]
