#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""`yado local`, libyado by the programs in apps/talk, yado-msg and the Python module, from the
outside; the first programs of docs/messages.md.
Usage: test_local.py YADO YADO_MSG LIBYADO_FOLDER LIBYADO RING HEAT FARM BLOCKS"""
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

YADO, MSG, FOLDER, LIBYADO, RING, HEAT, FARM, BLOCKS = map(os.path.abspath, sys.argv[1:9])
DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs/messages.md"
ENV = {**{k: v for k, v in os.environ.items() if not k.startswith("YADO_")}, "MSG": MSG,
       "PYTHONPATH": FOLDER, "PYTHONDONTWRITEBYTECODE": "1"}


def local(n, *program, options=(), status=0, timeout=60):
    """What the parts printed: a list of lines a part."""
    r = subprocess.run([YADO, "local", "-n", str(n), *options, "--", *map(str, program)],
                       capture_output=True, text=True, timeout=timeout, env=ENV)
    assert r.returncode == status, f"{program}: status {r.returncode}\n{r.stdout}{r.stderr}"
    parts = [[] for _ in range(n)]
    for line in (r.stdout + r.stderr).splitlines():
        m = re.match(r"(\d+): (.*)", line)
        if m:
            parts[int(m[1])].append(m[2])
        elif n == 1:
            parts[0].append(line)
    return parts


def shell(n, script, **kw):
    return local(n, "sh", "-ec", script, **kw)


def python(n, script, **kw):
    return local(n, "/usr/bin/python3", "-c", "import yado, os\nm = yado.open()\n" + script, **kw)


class Apps(unittest.TestCase):
    def test_ring(self):
        for n, args in ((1, ()), (3, ("--laps", 30)), (8, ("--laps", 5, "--bytes", 1 << 20))):
            self.assertIn(f"ring: ranks={n} ", local(n, RING, *args)[0][0])

    def test_heat_is_the_same_for_any_number_of_ranks(self):
        seen = {local(n, HEAT, "--n", 40, "--steps", 60)[0][-1] for n in (1, 2, 5)}
        self.assertEqual(len(seen), 1, seen)

    def test_farm(self):
        self.assertEqual(local(4, FARM)[0], ["farm: tasks=40 primes=7837"])

    def test_farm_goes_on_without_a_rank(self):
        lines = local(4, FARM, "--die", 2, "--pause", 5, status=1)[0]
        self.assertEqual(lines[0], "rank 2 is gone")
        self.assertIn("farm: tasks=40 ", lines[1])

    def test_a_failure_ends_all(self):
        start = time.monotonic()
        local(4, FARM, "--die", 2, "--pause", 1000, status=1,
              options=("--on-part-failure", "fail"))
        self.assertLess(time.monotonic() - start, 20)

    def test_blocks(self):
        seen = {tuple(local(n, BLOCKS, "--n", 90)[n - 1]) for n in (1, 3, 4)}
        self.assertEqual(len(seen), 1, seen)
        local(2, BLOCKS, "--n", 600)  # blocks of more than a message


C = r"""
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yado.h>

static int is_readable(struct yado *y, int ms)
{
    struct pollfd p = {yado_fd(y), POLLIN, 0};

    return poll(&p, 1, ms);
}

int main(void)
{
    struct yado_message m;
    struct yado *y;
    unsigned char *data;
    size_t len;

    assert(yado_open(&y) == 0);
    assert(yado_recv(y, YADO_ANY, 0, &m) == -ETIMEDOUT && is_readable(y, 10) == 0);
    assert(yado_barrier(y) == 0);
    if (yado_rank(y) == 0) {
        assert(yado_broadcast(y, "go", 2) == 0);
        for (unsigned i = 1; i < yado_ranks(y); i++) {
            assert(is_readable(y, 20000) == 1 && yado_recv(y, YADO_ANY, 0, &m) == 0);
            assert(m.len == 3 && !m.gone && !memcmp(m.data, "got", 4));
            free(m.data);
        }
        assert(is_readable(y, 0) == 0 && yado_put(y, "end", "x", 1) == 0);
        assert(yado_send(y, yado_ranks(y), "", 0) == -EINVAL);
        puts("all");
    } else {
        assert(is_readable(y, 20000) == 1 && yado_recv(y, 0, 0, &m) == 0 && m.from == 0);
        assert(m.len == 2 && !memcmp(m.data, "go", 3));
        free(m.data);
        assert(yado_send(y, 0, "got", 3) == 0);
        while (yado_get(y, "end", &data, &len) == -ENOENT)
            (void)yado_recv(y, YADO_ANY, 10, &m);
        assert(len == 1 && data[0] == 'x');
        free(data);
        puts("got");
    }
    yado_close(y);
    return 0;
}
"""


class Library(unittest.TestCase):
    def test_poll_broadcast_and_the_rest(self):
        with tempfile.TemporaryDirectory() as d:
            source = pathlib.Path(d) / "x.c"
            source.write_text(C)
            subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-I", FOLDER, "-o", d + "/x",
                            source, LIBYADO], check=True, timeout=60)
            self.assertEqual(local(3, d + "/x"), [["all"], ["got"], ["got"]])


class Shell(unittest.TestCase):
    def test_a_program_in_shell(self):
        lines = shell(3, '''
            if [ $($MSG rank) = 0 ]; then
                for i in 1 2; do $MSG recv --show-from; echo; done | sort
            else
                echo "from $YADO_PART of $($MSG ranks)" | $MSG send 0
            fi''')
        self.assertEqual([x for x in lines[0] if x], ["1 from 1 of 3", "2 from 2 of 3"])

    def test_order_and_bytes(self):
        lines = shell(2, '''
            if [ $YADO_PART = 1 ]; then
                for i in 0 1 2 3 4 5 6 7 8 9; do $MSG send 0 "$i"; done
                head -c 1048576 /dev/zero | $MSG send 0
            else
                for i in 0 1 2 3 4 5 6 7 8 9; do $MSG recv --from 1; done
                echo
                $MSG recv | wc -c
            fi''')
        self.assertEqual(lines[0], ["0123456789", "1048576"])

    def test_broadcast(self):
        lines = shell(3, '''
            if [ $YADO_PART = 1 ]; then
                $MSG broadcast all; echo of you | $MSG broadcast
            else
                $MSG recv --from 1; $MSG recv
            fi''')
        self.assertEqual([lines[0], lines[2]], [["allof you"]] * 2)

    def test_timeout_leaves_the_message_to_the_next(self):
        lines = shell(2, '''
            if [ $YADO_PART = 0 ]; then
                $MSG recv --timeout 0 && exit 1 || [ $? = 3 ]
                $MSG recv --timeout 0.01 && exit 1 || [ $? = 3 ]
                $MSG send 1 go
                $MSG recv; $MSG recv
            else
                $MSG recv >/dev/null; $MSG send 0 a; $MSG send 0 b
            fi''')
        self.assertEqual(lines[0], ["ab"])

    def test_barrier(self):
        """Nobody is through a barrier before the last one has come."""
        with tempfile.TemporaryDirectory() as d:
            shell(4, f'''
                cd {d}
                for k in 1 2 3; do
                    touch "$k.$YADO_PART"
                    $MSG barrier
                    [ $(ls $k.* | wc -l) = 4 ]
                done''')

    def test_blobs(self):
        lines = shell(2, '''
            if [ $YADO_PART = 0 ]; then
                head -c 300000 /dev/urandom >$YADO_OUT/data
                $MSG put big $YADO_OUT/data
                echo other | $MSG put big
                : | $MSG put empty
                sha256sum <$YADO_OUT/data
                $MSG send 1 there
            else
                $MSG get nothing && exit 1 || [ $? = 3 ]
                $MSG put ../x $0 && exit 1 || [ $? = 1 ]
                $MSG recv >/dev/null
                $MSG get big | sha256sum
                $MSG get empty | wc -c
            fi''')
        self.assertEqual(lines[0][0], next(x for x in lines[1] if x.endswith("-")))
        self.assertIn("0", lines[1])

    def test_wrong_use(self):
        for script, status in (("$MSG", 2), ("$MSG send 7 x", 2), ("$MSG send x y", 2),
                               ("$MSG recv --timeout -1", 2), ("$MSG nonsense", 2),
                               ("$MSG recv --from 9", 1), ("$MSG put", 2),
                               ("head -c 1048577 /dev/zero | $MSG send 0", 1)):
            shell(1, f"{script} && exit 9 || exit $(($? == {status} ? 0 : 8))")
        r = subprocess.run([MSG, "rank"], capture_output=True, text=True,
                           env={**ENV, "YADO_MAIL": "/nowhere"})
        self.assertEqual(r.returncode, 1)
        self.assertIn("yado local", r.stderr)


class Python(unittest.TestCase):
    def test_a_program_in_python(self):
        lines = python(3, '''
if m.rank == 0:
    print(sorted(m.recv() for _ in range(2)))
    m.broadcast(b"enough")
else:
    m.send(0, b"from %d of %d" % (m.rank, m.ranks))
    print(m.recv(source=0))''')
        self.assertEqual(lines[0], ["[(1, b'from 1 of 3'), (2, b'from 2 of 3')]"])
        self.assertEqual(lines[2], ["(0, b'enough')"])

    def test_select_and_sources(self):
        lines = python(3, '''
import select
if m.rank == 0:
    assert select.select([m], [], [], 0)[0] == []
    m.broadcast(b"go")
    assert select.select([m], [], [], 20)[0]
    a = m.recv(source=2), m.recv(timeout=20)
    assert a == ((2, b"2"), (1, b"1")), a
    try:
        m.recv(timeout=0.01)
    except TimeoutError:
        print("none")
else:
    m.recv()
    m.send(0, b"%d" % m.rank)''')
        self.assertEqual(lines[0], ["none"])

    def test_a_flood_waits_and_arrives(self):
        """80 MiB to one that reads late: more than may be unread."""
        lines = python(2, '''
import time, hashlib
h = hashlib.sha256()
if m.rank == 1:
    for i in range(80):
        data = bytes([i]) * (1 << 20)
        m.send(0, data)
        h.update(data)
else:
    time.sleep(0.5)
    for i in range(80):
        h.update(m.recv()[1])
print(h.hexdigest())''')
        self.assertEqual(lines[0], lines[1])

    def test_barrier_behind_unread_messages(self):
        lines = python(2, '''
if m.rank == 1:
    for i in range(5):
        m.send(0, bytes(1 << 20))
m.barrier()
if m.rank == 0:
    print(sum(len(m.recv()[1]) for _ in range(5)))''')
        self.assertEqual(lines[0], [str(5 << 20)])

    def test_blobs_and_wrong_use(self):
        lines = python(2, '''
if m.rank == 0:
    assert m.put("a", b"x" * 200000) and not m.put("a", b"y")
    m.send(1, b"")
    for bad in (lambda: m.send(2, b""), lambda: m.send(-1, b""), lambda: m.recv(source=5),
                lambda: m.send(0, bytes(yado.MESSAGE_MAX + 1)), lambda: m.put("a/b", b"")):
        try:
            bad()
            raise SystemExit("taken")
        except ValueError:
            pass
    try:
        m.get("b")
    except KeyError:
        print("no b")
else:
    m.recv()
    assert m.get("a") == b"x" * 200000''')
        self.assertEqual(lines[0], ["no b"])

    def test_gone(self):
        lines = python(3, '''
if m.rank == 2:
    raise SystemExit(1)
if m.rank == 0:
    try:
        m.recv(source=2)
    except yado.Gone as e:
        print("gone", e.rank)
try:
    m.barrier()
except yado.Gone:
    print("no barrier")''', status=1, options=("--on-part-failure", "continue"))
        self.assertEqual(lines[:2], [["gone 2", "no barrier"], ["no barrier"]])


class Document(unittest.TestCase):
    """What docs/messages.md shows is what runs."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def first(self, language):
        text = re.search(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.S)[1]
        path = self.folder / f"first.{language}"
        path.write_text(text)
        return path

    def test_c(self):
        subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-I", FOLDER, "-o",
                        self.folder / "first", self.first("c"), LIBYADO], check=True, timeout=60)
        self.assertEqual(local(4, self.folder / "first")[0], ["sum 6"])

    def test_shell(self):
        (self.folder / "yado-msg").symlink_to(MSG)
        self.assertEqual(local(4, "env", f"PATH={self.folder}:{os.environ['PATH']}", "sh",
                               self.first("sh"))[0], ["sum 6"])

    def test_python(self):
        self.assertEqual(local(4, "/usr/bin/python3", self.first("python"))[0], ["sum 6"])


class Command(unittest.TestCase):
    def test_output_folder_and_streams(self):
        with tempfile.TemporaryDirectory() as d:
            shell(2, 'echo $YADO_PART >$YADO_OUT/x', options=("-o", d + "/out"))
            self.assertEqual((pathlib.Path(d) / "out/part-1/x").read_text(), "1\n")
        self.assertEqual(shell(1, "printf 'a\\nb'; printf c >&2"), [["a", "b", "c"]])

    def test_nothing_is_left(self):
        with tempfile.TemporaryDirectory() as d:
            env = {**ENV, "TMPDIR": d}
            p = subprocess.Popen([YADO, "local", "-n", "2", "--", "sh", "-c",
                                  "sleep 1000 & echo $!; $MSG recv"],
                                 stdout=subprocess.PIPE, text=True, env=env)
            pids = [int(p.stdout.readline().split()[1]) for _ in range(2)]
            p.send_signal(signal.SIGTERM)
            self.assertEqual(p.wait(20), 128 + signal.SIGTERM)
            p.stdout.close()
            self.assertEqual(os.listdir(d), [])
            for pid in pids:
                self.assertFalse(os.path.exists(f"/proc/{pid}/root") and
                                 "sleep" in pathlib.Path(f"/proc/{pid}/comm").read_text())

    def test_wrong_use(self):
        for args, text in ((("-n", "0"), "parts"), (("-n", "x"), "parts"), ((), "missing"),
                           (("--on-part-failure", "x", "--", "true"), "continue or fail")):
            r = subprocess.run([YADO, "local", *args], capture_output=True, text=True, env=ENV)
            self.assertEqual(r.returncode, 2)
            self.assertIn(text, r.stderr)
        self.assertIn("cannot run", local(1, "/nowhere/x", status=1)[0][0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
