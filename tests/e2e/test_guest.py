# SPDX-License-Identifier: Apache-2.0
"""yado-guest in a real QEMU, spoken to by a host written for this test (guest_host.py). The guest
is booted once and saved when it is ready; most tests resume that state, which takes half a second
and is what every part of a grid does."""
import hashlib
import io
import os
import pathlib
import struct
import subprocess
import tarfile
import time

import pytest

from guest_host import (BROKEN, EXITED, FINISHED, READY, RUNNING, START, IMAGES, OUTPUT, WINDOW,
                        Machine, frame, lay_out)

pytestmark = [pytest.mark.xdist_group("guest"),  # they share a guest
              pytest.mark.skipif(not (IMAGES / "initrd").exists(), reason=f"no guest image in {IMAGES}")]
SIGKILL = 9


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A saved guest that waits for its part, and a function that resumes it."""
    folder = tmp_path_factory.mktemp("guest")
    with Machine(folder, "boot", memory=128) as m:
        assert m.sync().phase == READY
        m.save(folder / "ready")
    count = iter(range(1000))

    def resume(**more):
        return Machine(folder, f"m{next(count)}", memory=128, load=folder / "ready", **more)
    return resume


def run(m, argv, timeout=60, **more):
    m.sync()
    m.start(argv, **more)
    return m.finish(timeout)


def sh(m, script, **more):
    return run(m, ["sh", "-c", script], **more)


def test_program(ready):
    """Output, both streams, status, user, environment, result; a START that comes again."""
    with ready() as m:
        m.sync()
        env = {"YADO_PART": "3", "HOME": "/tmp"}
        script = ("echo out; echo err >&2; id -u; id -g; pwd; echo $YADO_PART $HOME $YADO_IN $YADO_OUT;"
                  "hostname; grep -E 'NoNewPrivs|CapEff' /proc/self/status; cat /dev/vda 2>&1;"
                  "mkdir /out/d; echo hello >/out/d/b; : >/out/a; ln -s a /out/d-x; touch -d @77 /out/a;"
                  "sleep 100 & exit 7")
        m.start(["sh", "-c", script], env=env, hostname="job-9-3", group=9)
        m.start(["sh", "-c", "echo never"])
        s = m.finish()
        assert s.phase == FINISHED and os.waitstatus_to_exitcode(s.wait_status) == 7, s
        assert m.stdout().decode().splitlines() == [
            "out", "1000", "1000", "/work", "3 /tmp /in /out", "job-9-3", "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1", "cat: can't open '/dev/vda': Permission denied"]
        assert m.stdout(2) == b"err\n"
        with m.tar() as t:
            assert t.getnames() == ["a", "d", "d-x", "d/b"]
            assert t.extractfile("d/b").read() == b"hello\n" and t.getmember("a").mtime == 77
            assert t.getmember("d-x").linkname == "a" and t.getmember("d").isdir()
        assert 10 << 20 < s.peak_bytes < 128 << 20 and s.run_ms > 0 and s.text == ""
        assert s.group == 9


def test_not_found(ready):
    with ready() as m:
        s = run(m, ["no-such-program"])
        assert os.waitstatus_to_exitcode(s.wait_status) == 127 and s.result_end == 0
        assert b"no-such-program" in m.stdout(2)


def test_bad_start(ready):
    with ready() as m:
        s = run(m, ["true"], inputs=[{"path": "../etc/passwd", "offset": 0, "size": 1, "mode": 420,
                                      "tar": False}])
        assert s.phase == BROKEN and "../etc/passwd" in s.text


def test_clock_and_entropy(ready):
    """Two guests of one saved state: the right time, a wrong one if the host says so, and random
    numbers that differ."""
    found = []
    for wall in (None, 1_000_000_000_000_000_000):
        with ready() as m:
            m.sync(wall_ns=wall)
            m.start(["sh", "-c", "date +%s; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid"])
            m.finish()
            found.append(m.stdout().decode().splitlines())
    assert abs(int(found[0][0]) - time.time()) < 5
    assert abs(int(found[1][0]) - 1_000_000_000) < 5
    assert found[0][1] != found[1][1] and found[0][2] != found[1][2]


def test_window_and_resync(ready):
    """The host stores and acknowledges nothing: the program stands when the window is full. Then
    it connects anew, and everything comes again from where it stands, whole records only."""
    with ready() as m:
        m.sync()
        m.ack = False
        m.start(["sh", "-c", "i=0; while [ $i -lt 300 ]; do yes $i | head -c 8192; i=$((i+1)); done; echo done"])
        m.wait("a full window", lambda: len(m.output) > WINDOW - 40000)
        stands = lambda: len(m.states) > 2 and len({s.output_end for s in m.states[-2:]}) == 1
        m.wait("the program to stand", stands)
        assert m.state.phase == RUNNING and WINDOW - 40000 < m.state.output_end <= WINDOW
        kept, all_seen = m.records()[:20], len(m.output)
        m.output = b"".join(struct.pack(">BI", s, len(d)) + d for s, d in kept)
        m.seen.clear()
        start = len(m.output)
        m.sync()
        m.wait("output again", lambda: len(m.output) >= all_seen)
        assert m.seen[0][:2] == (OUTPUT, start)
        m.ack = True
        m.send_ack()
        m.finish()
        want = b"".join((b"%d\n" % i * 8192)[:8192] for i in range(300)) + b"done\n"
        assert m.stdout() == want


def test_moves(ready, tmp_path):
    """A counter watched from outside over saves at any instant: no tick lost, repeated or out of
    order. Frames that a save cuts in half are among them; so is one that the host sent."""
    script = ("i=0; while [ $i -lt 4000 ]; do echo $i; i=$((i+1)); done; "
              "head -c 3000000 /dev/urandom >/out/noise; sum=$(md5sum </out/noise); echo ${sum%% *}")
    m = ready()
    output = result = b""
    moves = 0
    try:
        m.sync()
        m.start(["sh", "-c", script])
        while m.state.phase != FINISHED:
            end = time.monotonic() + 0.15 + 0.07 * (moves % 4)
            while time.monotonic() < end and m.state.phase != FINISHED:
                m.take(0.05)
            if m.state.phase == FINISHED or moves == 8:
                m.finish()
                break
            if moves % 3 == 1:
                m.sock.sendall(frame(START, bytes(60000))[:3000])
            m.save(tmp_path / "state")
            moves += 1
            output, result = m.output, m.result
            m = Machine(tmp_path, f"move{moves}", memory=128, load=tmp_path / "state")
            m.output, m.result = output, result
            m.sync()
        lines = m.stdout().decode().split()
        assert lines[:-1] == [str(i) for i in range(4000)] and moves >= 3
        with m.tar() as t:
            assert hashlib.md5(t.extractfile("noise").read()).hexdigest() == lines[-1]
        assert os.waitstatus_to_exitcode(m.state.wait_status) == 0
    finally:
        m.drop()


def test_result_again(ready):
    """The result from any offset, and from the beginning, after it was sent once."""
    with ready() as m:
        m.sync()
        m.ack = False
        m.start(["sh", "-c", "head -c 2500000 /dev/urandom >/out/x; echo y >/out/y"])
        m.wait("a window of result", lambda: m.state.phase == EXITED and len(m.result) > WINDOW - 70000)
        assert not m.take(0.5) or len(m.result) <= WINDOW
        first = m.result
        m.result = first[:100_001]
        m.sync()
        m.ack = True
        m.send_ack()
        assert m.finish().phase == FINISHED
        assert m.result.startswith(first) and len(m.result) == m.state.result_end
        whole, m.result = m.result, b""
        assert m.sync().phase == EXITED
        m.finish()
        assert m.result == whole


def test_out_full(ready):
    with ready() as m:
        s = sh(m, "dd if=/dev/zero of=/out/x bs=65536 2>&1 | grep -v records", out_limit_bytes=4 << 20)
        assert s.phase == FINISHED and s.out_full and "/out is full" in s.text and "disk" in s.text
        assert b"No space left on device" in m.stdout()
        assert s.result_end == 1536 + (4 << 20)


def test_sparse_bomb(ready):
    with ready() as m:
        s = sh(m, "truncate -s 900G /out/bomb; mkfifo /out/fifo")
        assert s.phase == FINISHED and s.out_full and s.result_end == 0 and "larger than" in s.text
        assert os.waitstatus_to_exitcode(s.wait_status) == 1


def test_out_of_memory(ready):
    with ready() as m:
        s = sh(m, "awk 'BEGIN { s = \"x\"; while (1) s = s s }'; echo status $?")
        assert s.oom and "more memory" in s.text and s.phase == FINISHED
        assert b"status 137" in m.stdout()
        assert s.peak_bytes > 70 << 20


def test_fork_bomb(ready):
    """Bombs until nothing more can be forked, and after: init answers, and ends it all in time."""
    bomb = "(f() { f | f & }; while :; do f; done 2>/dev/null) &"
    fill = "(while :; do sleep 1000 & done 2>/dev/null) &"
    with ready() as m:
        m.sync()
        m.start(["sh", "-c", f"{fill} {bomb} {bomb} exec sleep 1000"], time_limit_ms=6000)
        m.phase(RUNNING)
        for _ in range(3):
            time.sleep(1)
            before = time.monotonic()
            m.sync()
            assert time.monotonic() - before < 2.5
        s = m.finish(90)
        assert s.phase == FINISHED and s.wait_status == SIGKILL and s.text, s
        assert s.run_ms < 15000


def test_time_limit(ready):
    with ready() as m:
        s = sh(m, "trap '' TERM; echo begun; sleep 1000", time_limit_ms=1500)
        assert s.wait_status == SIGKILL and s.text.startswith("time limit")
        assert 1500 <= s.run_ms < 4000 and m.stdout() == b"begun\n"


def make_tar(*members, fmt=tarfile.PAX_FORMAT):
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w", format=fmt) as t:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(value)
                t.addfile(info, io.BytesIO(value))
            else:
                info.linkname = value
                t.addfile(info)
    return b.getvalue()


def test_inputs(ready, tmp_path):
    big = os.urandom(3_000_001)
    long = "n" * 150 + "/é"
    blobs = [("run.sh", b"#!/bin/sh\ncd /in && find . | sort && md5sum <a/big && cat t/hard\n", False),
             ("a/big", big, False), ("empty", b"", False),
             ("t", make_tar(("x/y", tarfile.REGTYPE, b"deep\n"), ("hard", tarfile.LNKTYPE, "x/y"),
                            (long, tarfile.REGTYPE, b"z"), ("l", tarfile.SYMTYPE, "/etc/passwd")), True)]
    drive = tmp_path / "inputs"
    inputs = lay_out(drive, blobs)
    # More than fits into one frame.
    inputs += [dict(inputs[2], path=f"many/{i:0100d}") for i in range(700)]
    with ready(input_file=drive) as m:
        s = run(m, ["/in/run.sh"], inputs=inputs)
        assert s.phase == FINISHED and s.wait_status == 0, (s, m.stdout(2))
        lines = [x for x in m.stdout().decode().splitlines() if "/many/" not in x]
        assert lines == [".", "./a", "./a/big", "./empty", "./many", "./run.sh", "./t", "./t/hard",
                         "./t/l", f"./t/{'n' * 150}", f"./t/{long}", "./t/x", "./t/x/y",
                         hashlib.md5(big).hexdigest() + "  -", "deep"]


@pytest.mark.parametrize("members, word", [
    ([("../../evil", tarfile.REGTYPE, b"x")], "leads out"),
    ([("/etc/passwd", tarfile.REGTYPE, b"x")], "leads out"),
    ([("l", tarfile.SYMTYPE, "/etc"), ("l/passwd", tarfile.REGTYPE, b"x")], "l/passwd"),
])
def test_hostile_tar(ready, tmp_path, members, word):
    drive = tmp_path / "inputs"
    inputs = lay_out(drive, [("t", make_tar(*members), True)])
    with ready(input_file=drive) as m:
        s = run(m, ["true"], inputs=inputs)
        assert s.phase == BROKEN and word in s.text and '"t"' in s.text, s


def test_inputs_too_large(ready):
    with ready() as m:
        s = run(m, ["true"], inputs=[{"path": "x", "offset": 0, "size": 1 << 30, "mode": 420, "tar": False}])
        assert s.phase == BROKEN and "more memory" in s.text


def test_network(ready, tmp_path):
    """`nat` reaches the host through QEMU's user network; without it there is no way out."""
    script = "ip -4 -o addr | grep -c 10.0.2.15; ip route | grep -c default; ip link show lo | grep -c LOWER_UP"
    with ready(net=True) as m:
        sh(m, script + "; cat /etc/resolv.conf", network="nat")
        assert m.stdout().decode().split() == ["1", "1", "1", "nameserver", "10.0.2.3"]
    with ready() as m:
        sh(m, script)
        assert m.stdout().decode().split() == ["0", "0", "1"]


def test_erofs_root(tmp_path):
    """A root image: the program sees it, may not write system files, and what a job may write
    goes to memory. `os-release` stands for Debian here; images/build-debian makes real ones."""
    tree = tmp_path / "root"
    for d in ("bin", "etc", "dev", "proc", "sys", "tmp", "in", "out", "work"):
        (tree / d).mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(pathlib.Path("/bin/busybox").read_bytes())
    (tree / "bin/busybox").chmod(0o755)
    for name in ("sh", "cat", "ls", "touch", "id", "grep"):
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc/os-release").write_text("ID=test\n")
    subprocess.run(["mkfs.erofs", "-zlz4", "-T0", "--all-root", tmp_path / "root.erofs", tree],
                   check=True, capture_output=True)
    with Machine(tmp_path, "erofs", memory=128, root=tmp_path / "root.erofs") as m:
        s = sh(m, "cat /etc/os-release; touch /etc/x 2>&1; touch /tmp/y /work/z && ls /work; ls /modules 2>&1;"
                  "grep -c overlay /proc/mounts; echo r >/out/r; cat /dev/fd/0; id -u")
        assert s.phase == FINISHED and s.wait_status == 0, s
        assert m.stdout().decode().splitlines() == [
            "ID=test", "touch: /etc/x: Permission denied", "z",
            "ls: /modules: No such file or directory", "1", "1000"]
        with m.tar() as t:
            assert t.getnames() == ["r"]


def test_init_is_safe(ready):
    """The user's program can end all that is its own, and init lives on."""
    with ready() as m:
        s = sh(m, "kill -9 1; kill -9 -1 & sleep 0.2; echo here; exit 4")
        assert s.phase == FINISHED
        m.sync()
