#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""apps/matrix against a multiplication written down in three loops, from the outside: files in,
files out. Usage: test_matrix.py MATRIX [SEED]"""
import array
import os
import pathlib
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import unittest

MATRIX = sys.argv[1]
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else 20261123
U = 2.0 ** -53


def run(*args, env=None, status=0):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("YADO_")}
    r = subprocess.run([MATRIX, *map(str, args)], capture_output=True, text=True, timeout=60,
                       env={**clean, **(env or {})})
    assert r.returncode == status, f"{args}: status {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout if status == 0 else r.stdout + r.stderr


def save(path, rows, version=1, descr="<f8", fortran="False", shape=None, cut=0):
    """Writes a .npy file as numpy.save does, or one that is wrong in the ways asked for."""
    shape = shape or f"({len(rows)}, {len(rows[0])})"
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    head = b"\x93NUMPY" + bytes([version, 0])
    size = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    data = b"".join(array.array("d", r).tobytes() for r in rows)
    path.write_bytes((head + size + text + b"\n" + data)[: -cut or None])


def load(path):
    raw = path.read_bytes()
    assert raw[:8] == b"\x93NUMPY\1\0", raw[:8]
    size = struct.unpack_from("<H", raw, 8)[0]
    assert (10 + size) % 64 == 0 and raw[9 + size] == 10
    head = eval(raw[10:10 + size], {})  # a literal dictionary, of our own making
    assert head["descr"] == "<f8" and head["fortran_order"] is False
    values = array.array("d", raw[10 + size:])
    rows, cols = head["shape"]
    assert len(values) == rows * cols
    return [list(values[i * cols:(i + 1) * cols]) for i in range(rows)]


def product(a, b):
    columns = list(zip(*b))
    return [[sum(x * y for x, y in zip(row, col)) for col in columns] for row in a]


def worst(a, b):
    assert len(a) == len(b) and len(a[0]) == len(b[0])
    return max(abs(x - y) for r, s in zip(a, b) for x, y in zip(r, s))


class Matrix(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.dir = pathlib.Path(self.tmp.name)
        self.addCleanup(self.tmp.cleanup)

    def parts(self, count, *source, **env):
        for i in range(count):
            out = self.dir / f"in/part-{i}"
            out.mkdir(parents=True)
            run("part", *source, "--out", out,
                env={"YADO_PART": str(i), "YADO_PARTS": str(count), **env})
        return self.dir / "in"

    def check_all(self, n, count, *source):
        run("combine", "--n", n, "--in", self.parts(count, *source), self.dir / "C.npy")
        return run("check", *source, "--full", self.dir / "C.npy")

    def test_any_n_in_any_number_of_parts(self):
        rng = random.Random(SEED)
        print("seed", SEED)
        for _ in range(25):
            n = rng.choice([1, 2, 3, 7, 16, 31, 64, 65, 100, 130])
            count = rng.choice([c for c in (1, 2, 3, 4, 5, 6, 7, 9, 12, 16) if c <= n])
            with self.subTest(n=n, parts=count), tempfile.TemporaryDirectory() as tmp:
                self.dir = pathlib.Path(tmp)
                seed = rng.randrange(1 << 64)
                source = ["--n", n, "--seed", seed]
                out = self.check_all(n, count, *source)
                self.assertRegex(out, r"^max_abs_error=\S+ ")
                run("generate", *source, self.dir / "A.npy", self.dir / "B.npy")
                a, b = load(self.dir / "A.npy"), load(self.dir / "B.npy")
                self.assertTrue(all(-1 <= x < 1 for r in a + b for x in r))
                self.assertNotEqual(a, b)
                self.assertLessEqual(worst(load(self.dir / "C.npy"), product(a, b)), 8 * n * U)

    def test_products_are_added_up(self):
        source = ["--n", 50, "--seed", SEED]
        folder = self.parts(27, *source, YADO_SPLIT="3", YADO_SPLIT_NAME="products")
        combine = ["combine", "--n", 50, "--in", folder, self.dir / "C.npy"]
        run(*combine)
        run("check", *source, "--full", self.dir / "C.npy")
        slice_of = folder / "part-5/C-0-16-33-50.npy"
        slice_of.rename(folder / "part-5/C-0-16-16-33.npy")
        self.assertIn("is there twice", run(*combine, status=2))
        (folder / "part-5/C-0-16-16-33.npy").unlink()
        self.assertIn("too few slices", run(*combine, status=2))
        wrong = {"YADO_PART": "0", "YADO_PARTS": "9", "YADO_SPLIT": "3", "YADO_SPLIT_NAME": "products"}
        self.assertIn("27 parts, not 9", run("part", *source, "--out", self.dir, env=wrong, status=2))

    def test_own_files(self):
        rng = random.Random(SEED)
        a, b = ([[rng.uniform(-1e6, 1e6) for _ in range(21)] for _ in range(21)] for _ in "ab")
        save(self.dir / "A.npy", a)
        save(self.dir / "B.npy", b, version=2)
        files = ["--a", self.dir / "A.npy", "--b", self.dir / "B.npy"]
        self.check_all(21, 6, *files)
        self.assertLessEqual(worst(load(self.dir / "C.npy"), product(a, b)), 21 * 8 * U * 1e12)

    def test_the_same_seed_gives_the_same_and_another_does_not(self):
        for name, seed in ("1", 5), ("2", 5), ("3", 6):
            run("generate", "--n", 40, "--seed", seed, self.dir / ("A" + name), self.dir / ("B" + name))
        self.assertEqual(load(self.dir / "A1"), load(self.dir / "A2"))
        self.assertNotEqual(load(self.dir / "A1"), load(self.dir / "A3"))
        self.assertNotEqual(load(self.dir / "B1"), load(self.dir / "B3"))
        values = [x for r in load(self.dir / "A1") for x in r]
        self.assertEqual(len(set(values)), 1600)
        self.assertLess(abs(sum(values)) / 1600, 0.06)  # 4 deviations of a uniform's mean

    def test_progress_shows_in_the_log(self):
        out = run("part", "--n", 200, "--seed", 1, "--part", 3, "--parts", 4, "--out", self.dir)
        self.assertIn("part 3 of 4: rows 100 to 199, columns 100 to 199 of 200", out)
        self.assertRegex(out, r"(?m)^ 64 %  64 of 100 rows, \d+\.\d s$")
        self.assertRegex(out, r"(?m)^100 %  100 of 100 rows")
        self.assertEqual(sorted(p.name for p in self.dir.iterdir()), ["C-100-100.npy"])

    def test_one_wrong_number_is_found(self):
        self.check_all(70, 4, "--n", 70, "--seed", 3)
        path = self.dir / "C.npy"
        c = load(path)
        check = ["check", "--n", 70, "--seed", 3, "--full", path]
        for value in c[69][13] + 1e-9, float("nan"), float("inf"):
            was, c[69][13] = c[69][13], value
            save(path, c)
            out = run(*check, status=1)
            self.assertIn("max_abs_error=", out)
            c[69][13] = was
        c[69][13] += 1e-9
        save(path, c)
        run(*check, "--tolerance", "1e-8")
        save(path, c[:69])
        self.assertIn("69 x 70, not 70 x 70", run(*check, status=1))
        run("check", "--n", 70, "--seed", 4, "--full", path, status=1)

    def test_missing_and_double_blocks_are_refused(self):
        folder = self.parts(4, "--n", 10, "--seed", 1)
        combine = ["combine", "--n", 10, "--in", folder, self.dir / "C.npy"]
        block = folder / "part-2/C-5-0.npy"
        whole = block.read_bytes()
        block.unlink()
        self.assertIn("element (5, 0) is in no block", run(*combine, status=2))
        (folder / "part-0/C-4-0.npy").write_bytes(whole)
        self.assertIn("more than one block", run(*combine, status=2))
        (folder / "part-0/C-4-0.npy").rename(folder / "part-0/C-6-0.npy")
        self.assertIn("reaches beyond", run(*combine, status=2))
        self.assertFalse((self.dir / "C.npy").exists())
        (folder / "part-0/C-6-0.npy").unlink()
        block.write_bytes(whole)
        (folder / "part-1/notes.txt").write_text("not a block")
        (folder / "stray").write_text("not a folder")
        run(*combine)
        (self.dir / "empty").mkdir()
        self.assertIn("no part-*", run("combine", "--n", 10, "--in", self.dir / "empty", "x", status=2))

    def test_files_that_are_no_matrices_are_named(self):
        good, bad = self.dir / "good.npy", self.dir / "bad.npy"
        rows = [[1.0, 2.0], [3.0, 4.0]]
        save(good, rows)

        def refused(expected):
            text = run("part", "--a", good, "--b", bad, "--out", self.dir, status=2)
            self.assertIn(expected, text)
            self.assertIn("bad.npy", text)

        refused("No such file")
        save(bad, rows, descr="<f4")
        refused("astype('<f8')")
        save(bad, rows, fortran="True")
        refused("ascontiguousarray")
        for shape in "(4,)", "(4, )":
            save(bad, rows, shape=shape)
            refused("one dimension")
        save(bad, rows, shape="(2, 2, 1)")
        refused("more than two dimensions")
        for shape in "(-2, 2)", "()", "(99999999999, 2)", "2, 2", "(2 2)":
            save(bad, rows, shape=shape)
            self.assertIn("bad.npy", run("part", "--a", good, "--b", bad, "--out", self.dir, status=2))
        save(bad, rows, shape="(2147483647, 2147483647)")
        refused("cut off")
        save(bad, rows, cut=1)
        refused("cut off")
        save(bad, rows, version=3)
        refused("version 1 or 2")
        whole = good.read_bytes()
        for size in range(len(whole)):  # at every length
            bad.write_bytes(whole[:size])
            run("part", "--a", good, "--b", bad, "--out", self.dir, status=2)
        rng = random.Random(SEED)
        for _ in range(60):  # and with any bytes in the header: an answer, never a crash
            data = bytearray(whole)
            for _ in range(3):
                data[rng.randrange(80)] = rng.randrange(256)
            bad.write_bytes(data)
            r = subprocess.run([MATRIX, "part", "--a", good, "--b", bad, "--out", self.dir],
                               capture_output=True)
            self.assertIn(r.returncode, (0, 2), r.stderr)
        save(bad, [[1.0] * 3] * 3)
        refused("3 x 3, not 2 x 2")

    def test_a_guest_that_is_too_small_is_told(self):
        if pathlib.Path(MATRIX).name != "matrix":
            return  # sanitizers need more than any limit
        r = subprocess.run([MATRIX, "part", "--n", "8", "--seed", "1", "--out", self.dir],
                           capture_output=True, text=True, timeout=60, preexec_fn=lambda:
                           resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20)))
        self.assertEqual(r.returncode, 2)
        self.assertIn("more memory", r.stderr)

    def test_wrong_use_is_told(self):
        out = ["--out", self.dir]
        for args, text in [
                ([], "usage:"), (["multiply"], "usage:"), (["part", "--n", "4"], "--seed"),
                (["part", "--seed", "4"], "--n"), (["part", "--n", "0", "--seed", "1"], "--n"),
                (["part", "--n", "-4", "--seed", "1"], "\"-4\""),
                (["part", "--n", "4x", "--seed", "1"], "\"4x\""),
                (["part", "--n", "4", "--seed", "1", "--parts", "0"], "--parts"),
                (["part", "--n", "4", "--seed", "1", "--parts", "3", "--part", "3"], "counted from 0"),
                (["part", "--n", "4", "--seed", "1", "--parts", "7"], "fewer parts"),
                (["part", "--n", "4", "--a", "x"], "belong together"),
                (["part", "--n", "4", "--seed", "1", "--out", "/no/such"], "/no/such"),
                (["part", "--n", "4", "--seed", "1", "extra"], "extra"),
                (["part", "--frobnicate"], "frobnicate"),
                (["check", "--n", "4", "--seed", "1"], "--full"),
                (["check", "--n", "4", "--seed", "1", "--full", "x", "--tolerance", "-1"], "--tolerance"),
                (["combine", "--n", "4"], "one name"), (["generate", "--n", "4", "--seed", "1"], "two names")]:
            with self.subTest(args=args):
                self.assertIn(text, run(*args, status=2))
        self.assertIn("part 4 of 4", run("part", "--n", 9, "--seed", 1, *out, status=2,
                                         env={"YADO_PART": "4", "YADO_PARTS": "4"}))
        self.assertIn("usage:", run("--help"))
        self.assertIn("usage:", run("part", "--help"))


unittest.main(argv=[sys.argv[0]], verbosity=1)
