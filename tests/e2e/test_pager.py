# SPDX-License-Identifier: Apache-2.0
"""The pager against a small HTTPS server: real FUSE mounts, a source that goes away, damage."""
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading

import pytest

from blobserver import BLOCK, BlobServer
from grid import YADO, wait_for

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE here")


class Pager:
    def __init__(self, folder, server, files, **extra):
        self.mount = folder / "mnt"
        self.cache = folder / "cache"
        self.mount.mkdir(exist_ok=True)
        self.cache.mkdir(exist_ok=True)
        self.config = {"mount": str(self.mount), "url": server.url, "ca_file": str(server.ca_file),
                       "grant": server.grant, "cache_dir": str(self.cache), "allow_other": False,
                       "files": files, **extra}
        self.log = open(folder / "pager.log", "ab")
        self.proc = subprocess.Popen([YADO, "pager"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=self.log)
        self.say(json.dumps(self.config))
        assert self.proc.stdout.readline() == b"ready\n"

    def say(self, line):
        self.proc.stdin.write(line.encode() + b"\n")
        self.proc.stdin.flush()

    def close(self):
        self.proc.stdin.close()
        try:
            return self.proc.wait(20)
        finally:
            self.proc.kill()
            subprocess.run(["umount", "-l", self.mount], capture_output=True)


def mounted(path):
    return any(line.split()[1] == str(path) for line in open("/proc/self/mounts"))


@pytest.fixture
def folder():
    path = pathlib.Path(tempfile.mkdtemp(prefix="yado-pager-", dir="/var/tmp"))
    yield path
    subprocess.run(["umount", "-l", path / "mnt"], capture_output=True)
    print((path / "pager.log").read_text() if (path / "pager.log").exists() else "")
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(folder):
    with BlobServer(folder) as s:
        yield s


def one_file(server, data, name="root"):
    return [{"name": name, "size": len(data),
             "extents": [{"offset": 0, "blob": server.add(data), "length": len(data)}]}]


class Reader(threading.Thread):
    """A read in a thread of its own: it may hang."""

    def __init__(self, path, offset, size):
        super().__init__(daemon=True)
        self.path, self.offset, self.size = path, offset, size
        self.data = self.error = None
        self.start()

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDONLY)
            try:
                self.data = os.pread(fd, self.size, self.offset)
            finally:
                os.close(fd)
        except OSError as e:
            self.error = e.errno


def test_bytes_are_those_of_the_blobs(folder, server):
    seed = int(os.environ.get("YADO_SEED", "7"))
    print("seed", seed)
    rng = random.Random(seed)
    a, b = rng.randbytes(3 * BLOCK + 12345), rng.randbytes(BLOCK - 1)
    size = 64 << 20
    expected = bytearray(size)
    expected[8192:8192 + len(a)] = a
    expected[32 << 20:(32 << 20) + len(b)] = b
    files = one_file(server, a) + [{"name": "input", "size": size, "extents": [
        {"offset": 8192, "blob": server.add(a), "length": len(a)},
        {"offset": 32 << 20, "blob": server.add(b), "length": len(b)}]}]
    pager = Pager(folder, server, files)
    try:
        assert sorted(os.listdir(pager.mount)) == ["input", "root"]
        assert (pager.mount / "root").read_bytes() == a
        with open(pager.mount / "input", "rb", buffering=0) as f:
            for _ in range(300):
                offset, n = rng.randrange(size), rng.randrange(1, 400000)
                if rng.random() < 0.5:
                    offset = rng.randrange(len(a) + 20000)
                assert os.pread(f.fileno(), n, offset) == expected[offset:offset + n]
        with pytest.raises(OSError):
            open(pager.mount / "root", "r+b")
        # Each block came once, although two files share the blob.
        spans = [map(int, re.findall(r"\d+", r)) for m, p, r in server.requests if r]
        assert sum(last - first + 1 for first, last in spans) == len(a) + len(b)
    finally:
        assert pager.close() == 0
    assert not mounted(pager.mount)


def test_only_what_is_read_is_fetched(folder, server):
    data = random.Random(1).randbytes(100 * BLOCK)
    pager = Pager(folder, server, one_file(server, data))
    try:
        assert Reader(pager.mount / "root", 50 * BLOCK, 4096).join() is None
        have = pager.cache / f"{server.add(data)}.have"

        def count():  # a byte a block, and then their sums
            return have.read_bytes()[:100].count(1)
        wait_for("the blocks ahead", lambda: count() >= 9, 10)
        assert count() < 30
    finally:
        pager.close()
    # A second pager finds the block in the cache and asks for the list only.
    server.requests.clear()
    pager = Pager(folder, server, one_file(server, data))
    try:
        r = Reader(pager.mount / "root", 50 * BLOCK, 4096)
        r.join(10)
        assert r.data == data[50 * BLOCK:50 * BLOCK + 4096]
        assert f"bytes={50 * BLOCK}-{51 * BLOCK - 1}" not in [q[2] for q in server.requests]
    finally:
        pager.close()


def test_source_goes_and_comes_back(folder, server):
    data = random.Random(2).randbytes(64 * BLOCK)
    pager = Pager(folder, server, one_file(server, data))
    try:
        first = Reader(pager.mount / "root", 0, 4096)
        first.join(10)
        assert first.data == data[:4096]
        server.stop()
        readers = [Reader(pager.mount / "root", (20 + 5 * i) * BLOCK, 4096) for i in range(6)]
        readers[0].join(3)
        assert all(r.is_alive() for r in readers)
        # What is there is served meanwhile.
        again = Reader(pager.mount / "root", 4096, 4096)
        again.join(5)
        assert again.data == data[4096:8192]
        server.start()
        for i, r in enumerate(readers):
            r.join(15)
            assert r.error is None
            assert r.data == data[(20 + 5 * i) * BLOCK:(20 + 5 * i) * BLOCK + 4096]
    finally:
        pager.close()


def test_source_that_hangs_without_a_reset(folder, server):
    data = random.Random(3).randbytes(8 * BLOCK)
    pager = Pager(folder, server, one_file(server, data))
    try:
        server.stall.set()
        r = Reader(pager.mount / "root", 0, 4096)
        r.join(2)
        assert r.is_alive()
        server.stall.clear()
        r.join(40)  # the client notices after 15 s of silence and asks again
        assert r.data == data[:4096]
    finally:
        pager.close()


def test_damage_on_the_way_and_on_the_disk(folder, server):
    data = random.Random(4).randbytes(4 * BLOCK)
    files = one_file(server, data)
    digest = files[0]["extents"][0]["blob"]
    server.damage[(digest, 1)] = 2
    pager = Pager(folder, server, files)
    try:
        assert (pager.mount / "root").read_bytes() == data
    finally:
        pager.close()
    assert "damaged" in (folder / "pager.log").read_text()
    with open(pager.cache / f"{digest}.data", "r+b") as f:
        f.seek(2 * BLOCK + 1000)
        f.write(b"rot")
    server.requests.clear()
    pager = Pager(folder, server, files)
    try:
        assert (pager.mount / "root").read_bytes() == data
        assert [q[2] for q in server.requests if q[2]] == [f"bytes={2 * BLOCK}-{3 * BLOCK - 1}"]
    finally:
        pager.close()


def test_fail_and_serve(folder, server):
    data = random.Random(5).randbytes(64 * BLOCK)
    pager = Pager(folder, server, one_file(server, data))
    try:
        server.stop()
        waiting = Reader(pager.mount / "root", 0, 4096)
        waiting.join(0.5)
        assert waiting.is_alive()
        pager.say("fail")
        waiting.join(5)
        assert waiting.error == 5
        new = Reader(pager.mount / "root", 30 * BLOCK, 4096)
        new.join(5)
        assert new.error == 5
        server.start()
        pager.say("serve")

        def good():
            r = Reader(pager.mount / "root", 0, 4096)
            r.join(10)
            return r.data == data[:4096]
        wait_for("reads to be served again", good, 10)
    finally:
        pager.close()


def test_killed_pager_leaves_a_mount_that_can_be_cleaned(folder, server):
    data = random.Random(6).randbytes(4 * BLOCK)
    pager = Pager(folder, server, one_file(server, data))
    server.stop()
    r = Reader(pager.mount / "root", 0, 4096)
    r.join(0.3)
    pager.proc.send_signal(signal.SIGKILL)
    r.join(10)
    assert r.error is not None
    pager.proc.wait(10)
    assert mounted(pager.mount)
    with pytest.raises(OSError):
        os.listdir(pager.mount)
    subprocess.run(["umount", "-l", pager.mount], check=True)
    assert not mounted(pager.mount)
    pager.mount.rmdir()


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_it_runs_as_another_user(folder, server):
    nobody = pwd.getpwnam("nobody")
    data = random.Random(8).randbytes(4 * BLOCK)
    os.chmod(folder, 0o711)
    pager = Pager(folder, server, one_file(server, data), uid=nobody.pw_uid, gid=nobody.pw_gid,
                  allow_other=True)
    try:
        assert os.stat(f"/proc/{pager.proc.pid}/fd", follow_symlinks=False)
        status = pathlib.Path(f"/proc/{pager.proc.pid}/status").read_text()
        assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}" in status
        assert "NoNewPrivs:\t1" in status
        out = subprocess.run(["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "cat",
                              pager.mount / "root"], capture_output=True, check=True).stdout
        assert out == data
    finally:
        assert pager.close() == 0


@pytest.mark.parametrize("config, text", [
    ("nonsense", "not JSON"),
    ("{}", "the pager needs"),
    ('{"mount": "/nonexistent/x", "url": "https://127.0.0.1:1/", "ca_file": "x", "grant": "g", '
     '"cache_dir": "/nonexistent/cache", "allow_other": false, "files": [{"name": "a/b", '
     '"size": 1, "extents": []}]}', "file 0"),
    ('{"mount": "/nonexistent/x", "url": "https://127.0.0.1:1/", "ca_file": "x", "grant": "g", '
     '"cache_dir": "/nonexistent/cache", "allow_other": false, "files": [{"name": "a", "size": 10, '
     '"extents": [{"offset": 5, "blob": "' + "0" * 64 + '", "length": 6}]}]}', "extent 0"),
    ('{"mount": "/nonexistent/x", "url": "https://127.0.0.1:1/", "ca_file": "x", "grant": "g", '
     '"cache_dir": "/nonexistent/cache", "allow_other": false, "files": []}', "cannot mount"),
])
def test_bad_configuration(config, text):
    r = subprocess.run([YADO, "pager"], input=config + "\n", capture_output=True, text=True)
    assert r.returncode == 1
    assert text in r.stderr
