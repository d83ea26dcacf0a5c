# SPDX-License-Identifier: Apache-2.0
"""A guest's memory served by the pager over a chain of layers: every byte as the engine composes
it, a source that goes away, damage, the kernel's share of memory."""
import json
import mmap
import os
import pathlib
import random
import re
import subprocess

import pytest

from blobserver import BLOCK
from grid import YADO, wait_for
from test_pager import Pager, Reader, folder, server  # noqa: F401 (fixtures)

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")

MAKE_LAYERS = pathlib.Path(YADO).resolve().parent / "src/vm/make_layers"
SEED = int(os.environ.get("YADO_SEED", "1"))
PAGE = 4096
MIB = 1 << 20


class Chain:
    """Layers at the server, and what they show together."""

    def __init__(self, folder, server, mib=64, count=6, merge=(0, 0), seed=SEED):
        print("seed", seed)
        made = folder / "made"
        made.mkdir()
        out = subprocess.run([MAKE_LAYERS, made, str(seed), str(mib), str(count), *map(str, merge)],
                             check=True, capture_output=True, text=True).stdout
        self.size = mib * MIB
        self.layers, self.hot = [], []
        for kind, *words in map(str.split, out.splitlines()):
            if kind == "hot":
                self.hot.append((words[0], int(words[1]), int(words[2])))
                continue
            assert server.add((made / words[0]).read_bytes()) == words[0]
            self.layers.append({"digest": words[0], "size": int(words[1])})
            if words[2] != "-":
                self.layers[-1]["stands_for"] = words[2]
        self.memory = (made / "composed").read_bytes()
        self.rng = random.Random(seed)

    def files(self):
        return [{"name": "memory", "size": self.size, "chain": self.layers}]

    def some_range(self):
        first = self.rng.randrange(self.size)
        return first, min(self.rng.randrange(1, 300000), self.size - first)


@pytest.fixture
def chain(folder, server):  # noqa: F811
    return Chain(folder, server)


def drop_page_cache(path):
    """As a kernel that is short of memory does."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@pytest.mark.parametrize("count, merge", [(1, (0, 0)), (2, (0, 0)), (9, (0, 0)), (9, (1, 8)),
                                          (9, (2, 5)), (3, (1, 1))])
def test_memory_is_what_the_engine_composes(folder, server, count, merge):  # noqa: F811
    chain = Chain(folder, server, count=count, merge=merge, seed=SEED + count)
    pager = Pager(folder, server, chain.files())
    try:
        path = pager.mount / "memory"
        with open(path, "rb", buffering=0) as f:
            for _ in range(60):
                first, n = chain.some_range()
                assert os.pread(f.fileno(), n, first) == chain.memory[first:first + n]
        assert path.read_bytes() == chain.memory
        # A fault in a mapping stops all of this process, the server too: by now none needs it.
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            for _ in range(5):
                drop_page_cache(path)
                first, n = chain.some_range()
                assert m[first:first + n] == chain.memory[first:first + n]
        requests = [(p, r) for m, p, r in server.requests if r]
        assert len(requests) == len(set(requests))
    finally:
        assert pager.close() == 0


def blocks_of(digest, first, length):
    return {(digest, i) for i in range(first // BLOCK, (first + length - 1) // BLOCK + 1)}


def test_hot_pages_come_first_then_the_rest(folder, server):  # noqa: F811
    """Once the guest runs, all that the memory needs is fetched, and then read without a source."""
    for i in range(20):
        (folder / str(i)).mkdir()
        chain = Chain(folder / str(i), server, mib=128, seed=SEED + i)
        if len(chain.hot) > 1:
            break
    pager = Pager(folder, server, chain.files())
    try:
        wait_for("its heads and ends to come", lambda: idle(server), 30, 0.3)
        assert not fetched(pager, chain)
        pager.say("ahead")
        wait_for("nothing more to come", lambda: fetched(pager, chain) and idle(server), 30, 0.3)
        order = [blocks_of(re.search("[0-9a-f]{64}", p)[0], first, last - first + 1)
                 for m, p, r in server.requests if r
                 for first, last in [map(int, re.findall(r"\d+", r))]]
        hot = set().union(*(blocks_of(*h) for h in chain.hot))
        assert hot <= set().union(*order)
        # Before them come each layer's header and end, what follows those, and one other run.
        last_hot = max(i for i, blocks in enumerate(order) if blocks & hot)
        assert last_hot < 4 * len(chain.layers) + len(hot) and last_hot < len(order) * 0.8
        server.stop()
        assert (pager.mount / "memory").read_bytes() == chain.memory
    finally:
        assert pager.close() == 0


def fetched(pager, chain):
    """How many blocks the cache has, once every layer is open."""
    have = [pager.cache / f"{l['digest']}.have" for l in chain.layers]
    return all(p.exists() and any(p.read_bytes()) for p in have)


def idle(server, last=[0]):  # noqa: F811
    """No request since the last look."""
    same = last[0] == len(server.requests)
    last[0] = len(server.requests)
    return same


def test_source_goes_and_comes_back(folder, server, chain):  # noqa: F811
    pager = Pager(folder, server, chain.files())
    try:
        path = pager.mount / "memory"
        first = Reader(path, 0, PAGE)
        first.join(20)
        assert first.data == chain.memory[:PAGE]
        server.stop()
        drop_page_cache(path)
        places = [chain.rng.randrange(chain.size // PAGE) * PAGE for _ in range(40)]
        readers = [Reader(path, at, PAGE) for at in places]
        for r in readers:
            r.join(0.02)
        pager.say("fail")  # of image files only: a guest's memory waits
        server.start()
        for at, r in zip(places, readers):
            r.join(20)
            assert r.error is None
            assert r.data == chain.memory[at:at + PAGE]
    finally:
        assert pager.close() == 0


def test_it_ends_while_memory_is_waited_for(folder, server, chain):  # noqa: F811
    server.stop()
    pager = Pager(folder, server, chain.files())
    reader = Reader(pager.mount / "memory", 0, PAGE)
    reader.join(0.2)
    assert reader.is_alive()
    assert pager.close() == 0
    reader.join(10)
    assert reader.error


def test_damage_on_the_disk_is_mended(folder, server, chain):  # noqa: F811
    pager = Pager(folder, server, chain.files())
    try:
        path = pager.mount / "memory"
        assert path.read_bytes() == chain.memory
        for layer in chain.layers:
            with open(pager.cache / f"{layer['digest']}.data", "r+b") as f:
                for at in range(0, layer["size"], BLOCK // 3):
                    f.seek(at)
                    f.write(b"rotten")
        drop_page_cache(path)
        assert path.read_bytes() == chain.memory
    finally:
        assert pager.close() == 0
    assert "its blocks are checked" in (folder / "pager.log").read_text()


def flip(server, layer, at):  # noqa: F811
    """Damage that the master's list does not show: the file in the depot is another one."""
    data = bytearray(server.blobs[layer["digest"]])
    data[at % len(data)] ^= 0x10
    server.blobs[layer["digest"]] = bytes(data)


def read_until_the_end(pager, chain):
    """What comes is right, until the pager has ended; true when everything came."""
    reader = Reader(pager.mount / "memory", 0, chain.size)
    reader.join(60)
    assert not reader.is_alive()
    assert reader.data is None or chain.memory.startswith(reader.data)
    return reader.data is not None and len(reader.data) == chain.size


def test_damaged_layer_is_named(folder, server):  # noqa: F811
    """A bit in every part of each layer: what is needed of it is refused, and the layer named."""
    chain = Chain(folder, server, mib=16, count=3)
    whole = dict(server.blobs)
    named = 0
    for i in range(12):
        layer = chain.layers[i % 3]
        server.blobs.update(whole)
        at = chain.rng.randrange(layer["size"]) if i < 9 else -1
        flip(server, layer, at)
        (folder / str(i)).mkdir()
        pager = Pager(folder / str(i), server, chain.files())
        whole_came = read_until_the_end(pager, chain)
        try:
            ended = not whole_came or pager.proc.poll() is not None
            line = pager.proc.stdout.readline() if ended else b""
            assert line or whole_came  # it says why
            if line:
                assert line == f"damaged {layer['digest']}\n".encode(), (i, at)
                assert pager.proc.wait(10) == 3
                named += 1
        finally:
            pager.close()
    assert named >= 6


def test_chain_that_does_not_fit(folder, server, chain):  # noqa: F811
    del chain.layers[2]
    pager = Pager(folder, server, chain.files())
    try:
        assert pager.proc.stdout.readline() == f"damaged {chain.layers[2]['digest']}\n".encode()
        assert pager.proc.wait(10) == 3
    finally:
        pager.close()


def test_what_was_read_first_is_told(folder, server, chain):  # noqa: F811
    pager = Pager(folder, server, chain.files(), hot_file=str(folder / "hot"))
    try:
        assert Reader(pager.mount / "memory", 0, chain.size).join(30) is None
        assert (folder / "hot").read_bytes() == b""
        pager.say("hot")
        wait_for("the list", lambda: (folder / "hot").stat().st_size > 4, 10)
    finally:
        assert pager.close() == 0


def cached_bytes(path):
    """Of a file, by the kernel's page cache."""
    out = subprocess.run(["fincore", "-n", "-b", "-o", "RES", path], check=True,
                         capture_output=True, text=True).stdout
    return int(out)


def test_page_cache_and_copies_stay_in_their_share(folder, server):  # noqa: F811
    """A process that writes all of its memory has it as private copies; the page cache behind them
    goes."""
    chain = Chain(folder, server, mib=256)
    pager = Pager(folder, server, chain.files())
    try:
        path = pager.mount / "memory"
        # The server is a thread of ours, which a page fault of ours keeps from answering.
        assert path.read_bytes() == chain.memory
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE,
                                              prot=mmap.PROT_READ | mmap.PROT_WRITE) as m:
            for at in range(0, chain.size, PAGE):
                m[at] = 1
            wait_for("the page cache to shrink",
                     lambda: cached_bytes(path) <= chain.size // 4 + 32 * MIB, 60)
            assert all(m[at + 1:at + 64] == chain.memory[at + 1:at + 64]
                       for at in range(0, chain.size, 64 * PAGE))
    finally:
        assert pager.close() == 0


@pytest.mark.parametrize("change, text", [
    ({"chain": []}, "a chain has 1 to"),
    ({"chain": [{"digest": "0" * 64, "size": 5, "stands_for": "x"}]}, "layer 0 must be"),
    ({"chain": [{"digest": "0" * 64, "size": 5, "more": 1}]}, "layer 0 must be"),
    ({"chain": [{"digest": "x", "size": 5}]}, "is not the digest"),
    ({"chain": [{"digest": "0" * 64, "size": 5}], "extents": []}, "extents or chain"),
])
def test_bad_chain(change, text):
    config = {"mount": "/nonexistent/x", "url": "https://127.0.0.1:1/", "ca_file": "x", "grant": "g",
              "cache_dir": "/nonexistent/cache", "files": [{"name": "memory", "size": 4096, **change}]}
    r = subprocess.run([YADO, "pager"], input=json.dumps(config) + "\n", capture_output=True, text=True)
    assert r.returncode == 1
    assert text in r.stderr
