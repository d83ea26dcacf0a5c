# SPDX-License-Identifier: Apache-2.0
"""Parts that talk, with real guests, while everything fails by seed; and programs that do what they
should not: flood, never read, die, send to nobody or too much.

Seed: YADO_SEED, printed first. Faults of each kind: 1, or 6 with YADO_SOAK."""
import os
import random

from grid import Failed, Grid, wait_for
from test_kill import KillGrid
from test_mail import lose_power, running, submit, undisturbed

ROUNDS = 6 if os.environ.get("YADO_SOAK") else 1
SEED = int(os.environ.get("YADO_SEED", random.SystemRandom().randrange(1 << 32)))


class Faults:
    def __init__(self, g, rng):
        self.g, self.rng, self.away = g, rng, None

    def pc(self):
        return self.rng.choice(sorted(self.g.agents))

    def power(self):
        pc = self.pc()
        lose_power(self.g, pc)
        self.g.agents[pc].start()

    def say(self, word):
        """Of the owner whose PC was taken back; its agent may just be starting."""
        wait_for("the agent to answer", lambda: self.g.run(
            "owner", word, "--state", self.g.dir / self.away).returncode == 0)

    def owner(self):
        if self.away:
            self.say("auto")
        self.away = self.pc()
        self.say("leave")

    def move(self):
        for job in self.g.json("jobs")["jobs"]:
            for p in self.g.parts(job["id"]):
                if p["state"] == "running":  # what cannot be done just now is refused
                    self.g.run("move", f"{job['id']}.{p['part']}", self.pc())
                    return

    def supervisor(self):
        """A supervisor, or its agent, dies at a sync of the last layer, before or behind it."""
        part = wait_for("a part to run", lambda: next((
            (f"{job['id']}.{p['part']}", p["pc"]) for job in self.g.json("jobs")["jobs"]
            for p in self.g.parts(job["id"]) if p["state"] == "running"), None), 60)
        self.g.arm(self.rng.randint(1, 3), self.rng.random() < 0.5, at=part[1])
        self.g.run("move", part[0], self.rng.choice([p for p in self.g.agents if p != part[1]]))
        try:
            wait_for("it to die", lambda: self.g.struck(part[1]), 10)
        except Failed:  # the master was faster, or nothing was left to save
            self.g.arm(0, at=part[1])
        if not self.g.agents[part[1]].alive():  # it was the agent's sync
            self.g.agents[part[1]].start()

    def agent(self):
        agent = self.g.agents[self.pc()]
        agent.kill()
        agent.start()

    def master(self):
        self.g.master.kill()
        self.g.start_master()

    def commit(self):
        """The master dies at a sync, before or behind it."""
        self.g.arm(self.rng.randint(1, 9), self.rng.random() < 0.5)
        wait_for("the master to die", lambda: not self.g.master.alive(), 60)
        self.g.start_master()


def test_programs_that_talk_while_everything_fails():
    print("seed", SEED)
    rng = random.Random(SEED)
    programs = [(2, "heat", ("--n", 32, "--steps", 80), ("--pause", 60), ()),
                (2, "farm", ("--tasks", 16), ("--pause", 400), ("--checkpoint", "never")),
                (2, "ring", ("--laps", 4), (), ("--mail", "committed")),
                (3, "blocks", ("--n", 96), (), ())]
    with KillGrid(pcs=3, memory="400M", master_args=["--lease", "10s"]) as g:
        jobs = [submit(g, parts, program, *args, *slowly, options=("--checkpoint", "3s", *options))
                for parts, program, args, slowly, options in programs]
        running(g, jobs[0], 2)
        faults = Faults(g, rng)
        kinds = ["power", "owner", "move", "agent", "supervisor", "master", "commit"] * ROUNDS
        rng.shuffle(kinds)
        print(kinds)
        for kind in kinds:
            getattr(faults, kind)()
            wait_for("a part to run", lambda: g.pids("qemu-system"), 60)
        faults.say("auto")
        for job, (parts, program, args, *_) in zip(jobs, programs):
            g.wait_state(job, "done", timeout=120)
            said = [line for i in range(parts) for line in g.log(job, i, "out").splitlines()
                    if line.startswith(f"{program}: ") and " step " not in line]
            if program == "ring":
                assert said[0].startswith("ring: ranks=2 laps=4 ") and len(said) == 1
            else:
                assert said == [undisturbed(parts, program, *args)]


FLOOD = """[ $YADO_PART = 1 ] || exec sleep 1000
i=0; while head -c 1048576 /dev/zero | yado-msg send 0; do i=$((i+1)); echo $i; done"""
WRONG = """yado-msg send 9 x; echo $?
head -c 1048577 /dev/zero | yado-msg send 0; echo $?
yado-msg send 0 right; yado-msg recv; yado-msg recv --timeout 0.1; echo $?"""


def test_programs_that_do_what_they_should_not():
    with Grid(pcs=4, memory="300M", master_args=["--mailbox", "3M"]) as g:
        def shell(parts, script):
            return g.submit("--parts", parts, "--memory", "96M", "--", "sh", "-c", script)
        flood, wrong = shell(2, FLOOD), shell(1, WRONG)
        farm = [submit(g, 3, "farm", "--die", 2, "--pause", pause,
                       options=("--memory", "96M", "--on-part-failure", what))
                for what, pause in (("continue", 20), ("fail", 2000))]
        g.wait_state(wrong, "done")
        assert g.log(wrong, 0, "out").splitlines() == ["2", "1", "right3"]
        g.wait_state(farm[0], "done", "failed")
        assert [p["state"] for p in g.parts(farm[0])] == ["done", "done", "failed"]
        lines = g.log(farm[0], 0, "out").splitlines()
        assert lines[0] == "rank 2 is gone" and lines[-1].startswith("farm: tasks=40 ")
        g.wait_state(farm[1], "cancelled", "failed")
        assert [p["state"] for p in g.parts(farm[1])] == ["cancelled", "cancelled", "failed"]
        assert g.parts(farm[1])[0]["reason"] == "part 2 failed"

        def box():
            return {m["part"]: m for m in g.json("mail", flood)["mailboxes"]}.get(0, {})
        wait_for("the mailbox to be full", lambda: box().get("full"), 60)
        count = box()["unread"]
        assert count == 2 and box()["oldest_ms"] > 0
        assert "mailbox is full" in g.yado("events")
        # What is behind them waits in its guest: 2 MiB there, and no more.
        wait_for("the sender to wait", lambda: len(g.log(flood, 1).splitlines()) >= count, 60)
        assert len(g.log(flood, 1).splitlines()) <= count + 4
        g.yado("cancel", flood)
        g.wait_state(flood, "cancelled")
        assert not box()
