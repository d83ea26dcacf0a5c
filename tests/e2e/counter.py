# SPDX-License-Identifier: Apache-2.0
"""A job that counts, watched from outside: whatever happens to it, its log is that of one run."""
import re

from grid import wait_for

COUNTER = "i=0; while :; do i=$((i+1)); echo tick $i; usleep 50000; done"


def ticks(grid, job):
    return [int(n) for n in re.findall(r"^tick (\d+)$", grid.log(job, 0, "out"), re.M)]


def wait_ticks(grid, job):
    seen = len(ticks(grid, job))
    wait_for("ticks", lambda: len(ticks(grid, job)) > seen + 10)


def check_ticks(grid, job):
    seen = ticks(grid, job)
    assert seen == list(range(1, len(seen) + 1))
