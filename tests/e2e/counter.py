# SPDX-License-Identifier: Apache-2.0
"""A job that counts, watched from outside: whatever happens to it, its log is that of one run."""
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
