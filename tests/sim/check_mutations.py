#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Plants bugs, one at a time, most of them in the core that the master runs, and sees that `yado sim check` finds each within 10,000 seeds and
prints a history that breaks. Usage: check_mutations.py SOURCE_ROOT SANITIZERS ARCHIVE..."""
import pathlib
import re
import subprocess
import sys
import tempfile

root, sanitizers, archives = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]

MUTATIONS = [
    ("an epoch is not checked", "src/grid/report.c",
     "return p && p->r.pc == pc->r.id && p->r.epoch == vm->epoch ? p : NULL;",
     "return p && p->r.pc == pc->r.id ? p : NULL;"),
    ("an effect comes before it is durable", "src/grid/commit.c",
     "    int r = io->commit(arg);\n",
     "    int r = (act(o, io, arg), io->commit(arg));\n"),
    ("a lease is counted on a clock that was set", "src/grid/lease.c",
     "        hear(g, pc, g->now_ms);\n        room_changed(g, pc);\n",
     "        hear(g, pc, pc->lease_from_ms);\n        room_changed(g, pc);\n"),
    ("a lease is counted from its answer, not from its question", "src/sim/history_agent.c",
     "a->lease_until = a->sync_sent + s->config.lease_ms",
     "a->lease_until = s->t + s->config.lease_ms"),
]
MAIN = '#include "sim/commands.h"\nint main(int c, char **v) { return yado_sim_main(c - 1, v + 1); }\n'


def build(folder, path, old, new):
    text = (root / path).read_text()
    assert text.count(old) == 1, f"{path}: \"{old}\" is there {text.count(old)} times"
    mutated = folder / "mutated.c"
    text = text.replace(old, new)
    mutated.write_text(text)
    main = folder / "main.c"
    main.write_text(MAIN)
    flags = [] if sanitizers == "none" else [f"-fsanitize={sanitizers}"]
    subprocess.run(["cc", "-std=gnu17", "-O1", "-g", "-D_GNU_SOURCE", *flags, f"-I{root}/src", mutated,
                    main, *archives, "-ljansson", "-lm", "-o", folder / "sim"], check=True)
    return folder / "sim"


for what, path, old, new in MUTATIONS:
    with tempfile.TemporaryDirectory() as folder:
        program = build(pathlib.Path(folder), path, old, new)
        r = subprocess.run([program, "sim", "check", "--count", "10000"], capture_output=True,
                           text=True, timeout=280)
    assert r.returncode == 1, f"{what}: not found\n{r.stdout}{r.stderr}"
    seed = re.search(r"seed (\d+), the shortest history found", r.stdout)
    broken = re.search(r"(\S+): (.*) does not hold", r.stderr)
    assert seed and r.stdout.count("\n") > 5, r.stdout
    print(f"{what}: seed {seed[1]}, {r.stdout.count(chr(10))} lines"
          + (f": {broken[2]}" if broken else ""))
