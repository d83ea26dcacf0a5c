# SPDX-License-Identifier: Apache-2.0
"""What guests had in memory is unreadable on the disks of PCs, and whole at the master."""
import pathlib
import signal

from grid import Grid, wait_for

# A layer of its own, which the PC that resumes it reads and another is written over.
HOLDER = """head -c 8000000 /dev/urandom > /tmp/held; sha256sum < /tmp/held
    while :; do sha256sum < /tmp/held; usleep 300000; done"""
MAGIC = b"YADOLAYR"


def kept(grid, pc):
    """Of files in the PC's state folder that hold layers: name and bytes."""
    return {str(p.relative_to(grid.dir)): p.read_bytes() for kind in ("cache/*.data", "vm/*/*.layer")
            for p in (grid.dir / pc).glob(kind)}


def layers_of(grid):
    """The depot's layers that are not golden, by digest."""
    found = {p.name: p.read_bytes() for p in (grid.dir / "master/depot").glob("*/*")
             if len(p.name) == 64}
    return {d: b for d, b in found.items() if b.startswith(MAGIC) and not b[15] & 1}


def test_layers_on_a_pc_are_sealed():
    with Grid(pcs=2, memory="300M", agent_args=["--priority", "normal"]) as g:
        job = g.submit("--memory", "128M", "--checkpoint", "never", "--", "sh", "-c", HOLDER)
        g.wait_state(job, "running")
        wait_for("a digest", lambda: len(g.log(job).split()) >= 4)
        was = g.parts(job)[0]["pc"]
        # Saved while the master is away: it waits on the disk.
        g.master.kill(signal.SIGSTOP, wait=False)
        g.owner(was, "leave")
        wait_for("the layer", lambda: list((g.dir / was / "vm").glob("*/saved.json")), 20)
        waiting = {n: b for n, b in kept(g, was).items() if n.endswith(".layer")}
        assert len(waiting) == 1
        g.cut_power(was)
        g.master.kill(signal.SIGCONT, wait=False)
        g.agents[was].start()
        now = g.wait_elsewhere(job, was)
        said = len(g.log(job).split())
        wait_for("digests", lambda: len(g.log(job).split()) >= said + 4)
        assert len({w for w in g.log(job).split() if len(w) == 64}) == 1
        layers = layers_of(g)
        assert layers
        for name, data in {**waiting, **kept(g, now)}.items():
            digest = pathlib.Path(name).stem
            if digest in layers:
                print(name, len(data))
                assert data[:len(MAGIC)] != MAGIC
                whole = layers[digest]
                same = sum(a == b for a, b in zip(data[:1 << 20], whole))
                assert same < min(len(whole), 1 << 20) // 50, "its bytes are others"
        assert any(pathlib.Path(n).stem in layers for n in kept(g, now))
        # Nor is the key where the bytes are.
        for pc in (was, now):
            for path in (g.dir / pc).rglob("config.json"):
                assert '"key"' not in path.read_text(), path
