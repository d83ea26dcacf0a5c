# SPDX-License-Identifier: Apache-2.0
"""The size limit of a PC's cache of blobs: what guests use stays whatever the limit is, and of the
rest no more than it allows."""
import contextlib
import json

from counter import COUNTER, check_ticks, wait_ticks
from grid import Grid, wait_for

LIMIT = 1 << 20


def uses(grid, job):
    """Digests of the blobs that the job's guest, which runs, has started from: golden."""
    config = next((grid.dir / "pc-1/vm").glob(f"{job}.0.*/config.json"))
    desired = json.loads(config.read_text())["desired"]
    return [desired["golden"]["digest"]]


def kept(grid):
    """Bytes of the cache by digest."""
    found = {}
    for p in (grid.dir / "pc-1/cache").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it goes just now
            found[p.stem] = found.get(p.stem, 0) + p.stat().st_blocks * 512
    return found


def start(grid, *sizes):
    """Jobs of that much memory; they count."""
    jobs = [grid.submit("--memory", m, "--checkpoint", "never", "--", "sh", "-c", COUNTER)
            for m in sizes]
    for job in jobs:
        grid.wait_state(job, "running")
        wait_ticks(grid, job)
    return jobs


def end(grid, job, then):
    """The cache is looked through when its guest is gone."""
    grid.yado("cancel", job)
    wait_for("the cache to be smaller", lambda: then(kept(grid)), 20)


def test_the_cache_stays_below_its_size():
    with Grid(pcs=1, memory="600M", agent_args=["--cache-size", str(LIMIT)]) as g:
        stays, goes = start(g, "128M", "192M")
        used, other = uses(g, stays), uses(g, goes)[0]
        assert other not in used and min(kept(g)[used[0]], kept(g)[other]) > LIMIT
        end(g, goes, lambda now: sorted(now) == sorted(used))
        wait_ticks(g, stays)
        # What was removed comes again.
        [again] = start(g, "192M")
        assert uses(g, again)[0] == other and kept(g)[other] > LIMIT
        end(g, stays, lambda now: used[0] not in now)
        check_ticks(g, again)
        end(g, again, lambda now: sum(now.values()) <= LIMIT)
