# SPDX-License-Identifier: Apache-2.0
"""Parts of a job that talk, with real guests: what they compute is what they would have computed
undisturbed, whatever becomes of their PCs and of the master."""
import json
import os
import pathlib
import re
import signal
import subprocess

from grid import ROOT, YADO, Grid, wait_for

BUILD = pathlib.Path(YADO).resolve().parent
APPS = BUILD / "apps/talk"
DOCUMENT = (ROOT / "docs/messages.md").read_text()


def undisturbed(parts, program, *args):
    """The last line of the program under `yado local`, where nothing happens."""
    r = subprocess.run([YADO, "local", "-n", str(parts), "--", str(APPS / program), *map(str, args)],
                       capture_output=True, text=True, timeout=120, check=True)
    return re.findall(rf"^\d+: ({program}: .*)$", r.stdout, re.M)[-1]


def submit(g, parts, program, *args, options=()):
    return g.submit("--parts", parts, "--memory", "128M", "--input", APPS / program, *options,
                    "--", f"/in/{program}", *args)


def running(g, job, count):
    def all_run():
        parts = g.parts(job)
        return [p["state"] for p in parts] == ["running"] * count and parts
    return wait_for(f"{count} parts to run", all_run, 120, 0.1)


def steps(g, job):
    return [int(n) for n in re.findall(r"^heat: step (\d+)$", g.log(job, 0, "out"), re.M)]


def lose_power(g, pc):
    """All that runs on that PC is gone at once."""
    for _ in range(5):
        for pid in g.pids(str(g.dir / pc)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    g.agents[pc].kill()


def test_heat_whatever_happens():
    args = ("--n", 48, "--steps", 300, "--pause", 20)
    want = undisturbed(3, "heat", "--n", 48, "--steps", 300)
    with Grid(pcs=3, memory="400M", master_args=["--lease", "10s"]) as g:
        job = submit(g, 3, "heat", *args, options=("--checkpoint", "2s"))
        parts = running(g, job, 3)
        wait_for("some steps", lambda: steps(g, job), 60)
        # The owner of rank 1's PC comes back; its neighbours wait for it, and go on.
        g.owner(parts[1]["pc"], "leave")
        seen = len(steps(g, job))
        wait_for("steps after the move", lambda: len(steps(g, job)) > seen, 60)
        assert [m["reason"] for m in g.moves(job)] == ["owner"]
        g.owner(parts[1]["pc"], "auto")
        # Rank 2's PC loses its power, and what it did since its last checkpoint is done again.
        running(g, job, 3)
        pc, epoch = g.parts(job)[2]["pc"], g.parts(job)[2]["epoch"]
        lose_power(g, pc)
        g.agents[pc].start()
        # Meanwhile the master is killed.
        g.master.kill()
        g.start_master()
        assert g.job(job)["state"] == "running"
        g.wait_state(job, "done", timeout=180)
        assert g.parts(job)[2]["epoch"] > epoch
        assert g.log(job, 0, "out").splitlines()[-1] == want
        assert steps(g, job) == sorted(set(steps(g, job)))
        print([(m["reason"], m["total_ms"]) for m in g.moves(job)])


# What it sends no run does again: after going back it says something else under the same number.
DICE = """i=0; while [ $i -lt 50 ]; do
    x=$(head -c 8 /dev/urandom | od -An -tx8); yado-msg send 1 "$i$x"; echo "$i$x"
    i=$((i+1)); usleep 100000
done; yado-msg send 1 end"""
LISTEN = 'while m=$(yado-msg recv) && [ "$m" != end ]; do echo "$m"; done'


def roll_dice(g, *options):
    """One part sends, one prints what it gets; the sender goes back to a checkpoint in between."""
    job = g.submit("--parts", 2, "--memory", "96M", *options, "--", "sh", "-c",
                   f"if [ $YADO_PART = 0 ]; then {DICE}; else {LISTEN}; fi")
    running(g, job, 2)
    wait_for("some messages", lambda: len(g.log(job).splitlines()) > 5, 60)
    g.yado("checkpoint", job)
    count = len(g.log(job).splitlines())
    wait_for("more messages", lambda: len(g.log(job).splitlines()) > count + 10, 60)
    for pid in g.pids("qemu-system", f"/{job}.0."):
        os.kill(pid, signal.SIGKILL)
    return job


def test_a_program_that_is_not_deterministic():
    with Grid(pcs=2) as g:
        job = roll_dice(g, "--mail", "committed")
        g.wait_state(job, "done")
        lines = g.log(job, 0).splitlines()
        assert [int(line.split()[0]) for line in lines] == list(range(50))
        assert g.log(job, 1).splitlines() == lines
        job = roll_dice(g)
        parts = wait_for("the sender to fail", lambda: [
            p for p in g.parts(job) if p["part"] == 0 and p["state"] == "failed"], 60)
        assert "not deterministic: use mail: committed" in json.dumps(parts), parts


def test_a_move_in_a_ring_of_eight():
    """The others wait for the one that moves, and no longer than for that."""
    with Grid(pcs=5, memory="300M") as g:
        job = submit(g, 8, "ring", "--laps", 60, "--pause", 20, options=("--memory", "96M"))
        running(g, job, 8)
        at = [p["pc"] for p in g.parts(job)]
        pc, to = at[5], next(p for p in sorted(g.agents) if at.count(p) < 2 and p != at[5])
        g.yado("move", f"{job}.5", to)
        wait_for("the move", lambda: [p for p in g.parts(job) if p["part"] == 5 and
                                      p["state"] in ("running", "done") and p["pc"] != pc], 60)
        g.wait_state(job, "done", timeout=120)
        line = g.log(job, 0, "out").splitlines()[-1]
        print(line, g.moves(job))
        median, longest = (float(x) for x in re.search(
            r"median=([\d.]+) .*longest_lap_us=(\d+)", line).groups())
        assert len(g.moves(job)) == 1
        assert longest / 1000 < 8 * median / 1000 * 2 + g.moves(job)[0]["total_ms"] + 1000


def test_first_programs_of_the_document(tmp_path):
    """In C, built as the document says, and in shell; test_debian.py has the one in Python."""
    for name, word in (("first.c", "c"), ("first.sh", "sh")):
        (tmp_path / name).write_text(re.search(rf"```{word}\n(.*?)```", DOCUMENT, re.S)[1])
    build = re.search(r"^cc .* first\.c .*$", DOCUMENT, re.M)[0].split()
    lib = BUILD / "src/libyado"  # where they are installed a compiler finds both by itself
    subprocess.run([*build[:-1], f"-I{ROOT}/src/libyado", f"-L{lib}", build[-1]], cwd=tmp_path, check=True)
    with Grid(pcs=2, memory="600M") as g:
        def first(name, *command):
            return g.submit("--parts", 4, "--memory", "96M", "--input", tmp_path / name, "--", *command)
        for job in (first("first", "/in/first"), first("first.sh", "sh", "/in/first.sh")):
            g.wait_state(job, "done")
            assert [g.log(job, i) for i in range(4)] == ["sum 6\n", "", "", ""]
            assert [g.log(job, i, "err") for i in range(4)] == [""] * 4


# Each says when it comes to the barrier and when it is through; rank 2 comes late.
MEET = """if [ $YADO_PART = 0 ]; then yado-msg broadcast "a b"; yado-msg broadcast c; yado-msg broadcast; fi </dev/null
[ $YADO_PART = 0 ] || for i in 1 2 3; do yado-msg recv --from 0; echo; done
yado-msg send 0 "in $YADO_PART"
if [ $YADO_PART = 2 ]; then echo late; sleep 6; fi
yado-msg barrier
yado-msg send 0 "out $YADO_PART"
yado-msg barrier
[ $YADO_PART != 0 ] || for i in 1 2 3 4 5 6 7 8; do yado-msg recv; echo; done"""


def test_barrier_and_broadcast_while_a_rank_moves():
    with Grid(pcs=3, memory="300M") as g:  # each has room for two
        job = g.submit("--parts", 4, "--memory", "96M", "--", "sh", "-c", MEET)
        wait_for("rank 2 to be late", lambda: "late" in g.log(job, 2), 120)
        at = [p["pc"] for p in g.parts(job)]
        g.yado("move", f"{job}.2", next(p for p in g.agents if p != at[2] and at.count(p) < 2))
        g.wait_state(job, "done")
        assert len(g.moves(job)) == 1
        for i in range(1, 4):
            assert [line for line in g.log(job, i).splitlines() if line != "late"] == ["a b", "c", ""]
        said = g.log(job, 0).splitlines()
        assert sorted(said[:4]) == [f"in {i}" for i in range(4)]
        assert sorted(said[4:]) == [f"out {i}" for i in range(4)]
        assert all(g.log(job, i, "err") == "" for i in range(4))


# Each says a digit half a million times, round by round, and counts what is not the other's digit.
PAIR = """i=0; while [ $i -lt 24 ]; do d=$((i % 10))
    head -c 500000 /dev/zero | tr '\\0' $d | yado-msg send $((1 - YADO_PART))
    yado-msg recv > got; echo $i $(wc -c < got) $(tr -d $d < got | wc -c); i=$((i + 1))
done"""


def test_a_busy_pair_that_nobody_saves_but_its_mail():
    """With `checkpoint: never` what they have read is kept until there is too much of it; then they
    are saved, and nobody waits. With `mail: committed` checkpoints are all that lets a message go."""
    with Grid(pcs=2, memory="300M", master_args=["--mailbox", "3M", "--mail-kept", "2M"]) as g:
        pair = g.submit("--parts", 2, "--memory", "96M", "--checkpoint", "never", "--", "sh", "-c", PAIR)
        ring = submit(g, 2, "ring", "--laps", 3,
                      options=("--memory", "96M", "--checkpoint", "never", "--mail", "committed"))
        kept, layers = [0], [0]

        def watch():
            kept.append(max((m["kept_bytes"] for m in g.json("mail", pair)["mailboxes"]), default=0)
                        if g.job(pair)["state"] == "running" else 0)
            layers.append(min(p["layers"] for p in g.parts(pair)))
            return all(p["state"] == "done" for p in g.parts(pair))
        wait_for("the pair to be done", watch, 200, 0.2)
        for i in range(2):
            assert g.log(pair, i).splitlines() == [f"{n} 500000 0" for n in range(24)]
        print("kept at most", max(kept), "layers", max(layers))
        assert 2 << 20 < max(kept) < 9 << 20  # of 12 MB
        assert max(layers) >= 2
        g.wait_state(ring, "done")
        assert g.log(ring, 0, "out").startswith("ring: ranks=2 laps=3 ")
