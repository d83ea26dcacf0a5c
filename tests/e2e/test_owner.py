# SPDX-License-Identifier: Apache-2.0
"""The owner of a PC, as the agent notices him: a mock logind on a private bus, a bus that never
answers, the input watcher, his own word; and what a guest goes through meanwhile."""
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

from counter import COUNTER, check_ticks, ticks, wait_ticks
from grid import YADO, Grid, wait_for
from logind import Logind
from netns import Loopback


def status(grid, pc="pc-1"):
    return json.loads(grid.owner(pc, "status", "--json"))


def wait_free(grid, free=True, pc="pc-1", timeout=60):
    def asked():
        r = grid.run("owner", "status", "--json", "--state", grid.dir / pc)
        return r.returncode == 0 and json.loads(r.stdout)["available"] == free  # or not up yet
    wait_for(f"{pc} to be {'free' if free else 'taken'}", asked, timeout)


# What is tested here is not the class that guests run in: other load must not make them wait.
NORMAL = ["--priority", "normal"]
LOGIND_ARGS = ["--owner-sources", "logind", "--idle-grace", "1s", "--return-deadline", "60s", *NORMAL]


def test_logind_idle_lock_and_shutdown():
    with Logind() as logind, Grid(pcs=1, agent_args=LOGIND_ARGS) as g:
        wait_free(g)
        held = logind.inhibitors()
        assert [(i[0], i[3]) for i in held] == [("shutdown:sleep", "delay")]
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        # The owner touches his session.
        logind.hint("IdleHint", False)
        g.wait_state(job, "suspended")
        assert status(g)["reason"] == "owner"
        assert g.parts(job)[0]["reason"] == "owner"
        time.sleep(1.5)  # longer than the grace: he is still there
        assert not status(g)["available"]
        # He locks the screen and goes; the grace passes; the job is back.
        logind.hint("LockedHint", True)
        wait_free(g)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        # The PC shuts down: handed over, the delay let go, the agent ends well.
        logind.announce("PrepareForShutdown", True)
        assert g.agents["pc-1"].proc.wait(60) == 0, g.agents["pc-1"].text()
        g.wait_state(job, "suspended")
        assert [m["reason"] for m in g.moves(job)] == ["owner"]
        assert g.parts(job)[0]["reason"] == "shutdown"
        wait_for("the inhibitor to be gone", lambda: not logind.inhibitors(), 10)
        check_ticks(g, job)


def test_a_short_visit_moves_nothing():
    args = ["--owner-sources", "logind", "--idle-grace", "10s", "--visit", "6s", *NORMAL]
    with Logind() as logind, Grid(pcs=1, agent_args=args) as g:
        wait_free(g)
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        epoch = g.parts(job)[0]["epoch"]
        logind.hint("IdleHint", False)
        wait_free(g, False)
        assert status(g)["reason"] == "owner"
        g.wait_state(job, "paused_here")
        logind.hint("IdleHint", True)
        g.wait_state(job, "running", timeout=8)
        assert g.parts(job)[0]["epoch"] == epoch and not g.moves(job)
        # Again so soon: he is back, and the guest goes.
        logind.hint("IdleHint", False)
        g.wait_state(job, "suspended")
        check_ticks(g, job)


def test_logind_sleep_lets_go_when_saved_and_wakes():
    with Logind() as logind, Grid(pcs=1, agent_args=LOGIND_ARGS) as g:
        wait_free(g)
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        logind.announce("PrepareForSleep", True)
        wait_for("the delay to be let go", lambda: not logind.inhibitors(), 30)
        g.wait_state(job, "suspended")
        assert status(g)["reason"] == "sleep"
        logind.announce("PrepareForSleep", False)
        wait_for("a new inhibitor", lambda: len(logind.inhibitors()) == 1, 10)
        g.wait_state(job, "running")


def test_a_bus_that_never_answers_stalls_nothing(tmp_path, monkeypatch):
    path = str(tmp_path / "bus")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)  # connections are made and never answered
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=" + path)
    args = ["--owner-sources", "logind,evdev,battery,tty", "--idle-grace", "0", *NORMAL]
    with Grid(pcs=1, agent_args=args) as g:
        wait_for("the agent to dial the bus", lambda: select.select([server], [], [], 0)[0], 10)
        wait_free(g)
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        wait_ticks(g, job)
        began = time.monotonic()
        answer = json.loads(g.owner("pc-1", "leave", "--json"))
        assert time.monotonic() - began < 2
        assert answer["available"] is False and answer["reason"] == "owner"
        g.wait_state(job, "suspended", timeout=30)
        assert g.agents["pc-1"].alive()
        g.owner("pc-1", "auto")
        g.wait_state(job, "running")
    server.close()


def test_the_word_of_the_owner():
    with Grid(pcs=1) as g:
        wait_free(g)
        assert "this PC is lent" in g.owner("pc-1", "status")
        g.owner("pc-1", "snooze", "2h")
        s = status(g)
        assert s["reason"] == "snooze" and 7100000 < s["snooze_ms"] <= 7200000
        # It outlives the agent.
        g.agents["pc-1"].kill(signal.SIGTERM)
        g.agents["pc-1"].start()
        wait_for("the agent to be back", lambda: g.run("owner", "status", "--state",
                                                       g.dir / "pc-1").returncode == 0)
        assert status(g)["reason"] == "snooze"
        g.owner("pc-1", "auto")
        wait_free(g)
        g.owner("pc-1", "snooze", "300ms")
        assert not status(g)["available"]
        wait_free(g, timeout=10)
        for words in (["snooze"], ["snooze", "never"], ["snooze", "0"], ["go"], []):
            assert g.run("owner", *words, "--state", g.dir / "pc-1").returncode != 0
        other = g.run("agent", "--state", g.dir / "pc-1")
        assert other.returncode == 1 and "another agent" in other.stderr
        away = g.run("owner", "status", "--state", g.dir)
        assert away.returncode == 1 and "no agent answers" in away.stderr


def test_a_guest_that_does_not_stop_keeps_nothing_from_the_master():
    """The report waits until guests stand, but not for one whose supervisor hangs."""
    with Grid(pcs=1) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        wait_for("ticks", lambda: g.log(job), 60)  # what has not run yet has nothing to save
        (supervisor,) = g.pids("supervisor", f"/vm/{job}.")
        os.kill(supervisor, signal.SIGSTOP)
        g.owner("pc-1", "leave")
        wait_for("the master to hear of it", lambda: not g.json("pcs")["pcs"][0]["available"], 3)
        assert g.parts(job)[0]["state"] == "running"
        os.kill(supervisor, signal.SIGCONT)
        g.wait_state(job, "suspended")


def test_a_restart_of_the_agent_keeps_the_guest():
    with Grid(pcs=1, agent_args=NORMAL) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        agent = g.agents["pc-1"]
        wait_ticks(g, job)
        qemus = g.pids("qemu-system")
        for how in (signal.SIGTERM, signal.SIGKILL):
            agent.kill(how)
            time.sleep(1)  # its end is noticed and the last output is in
            before = len(ticks(g, job))
            time.sleep(1)
            assert len(ticks(g, job)) == before, "a guest ran without its agent"
            assert g.pids("qemu-system") == qemus
            agent.start()
            wait_ticks(g, job)
        assert g.pids("qemu-system") == qemus
        check_ticks(g, job)
        assert g.parts(job)[0]["state"] == "running" and not g.moves(job)


def test_a_killed_supervisor_leaves_nothing_and_costs_one_run():
    with Grid(pcs=1, agent_args=NORMAL) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        before = g.parts(job)[0]
        qemus = g.pids("qemu-system")
        for pid in g.pids(" supervisor"):
            os.kill(pid, signal.SIGKILL)
        wait_for("QEMU to be gone", lambda: not set(qemus) & set(g.pids("qemu-system")), 10)
        wait_for("another run", lambda: [p for p in g.parts(job) if p["state"] == "running" and
                                         p["epoch"] > before["epoch"]], 60)
        left = [d.name for d in (g.dir / "pc-1/vm").iterdir()]
        assert left == [f"{job}.0.{g.parts(job)[0]['epoch']}"]
        g.yado("cancel", job)
        wait_for("the guest's folder to go", lambda: not list((g.dir / "pc-1/vm").iterdir()), 20)
        assert not g.pids("qemu-system") and not g.pids(" pager", f"/vm/{job}.")


def spare(g):
    """(supervisor, pager) that wait for the next VM, or ()."""
    found = [g.pids(f" {name}", "/vm/spare") for name in ("supervisor", "pager")]
    return tuple(pid for pids in found for pid in pids) if all(found) else ()


def test_a_spare_supervisor_takes_the_next_vm():
    with Grid(pcs=1, agent_args=NORMAL) as g:
        wait_for("a spare supervisor", lambda: spare(g), 10)
        ready = spare(g)
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
        g.wait_state(job, "running")
        assert (*g.pids(" supervisor", f"/vm/{job}."), *g.pids(" pager", f"/vm/{job}.")) == ready
        urgent = [tid for pid in (ready[1], *g.pids("qemu-system"))
                  for tid in map(int, os.listdir(f"/proc/{pid}/task"))
                  if os.getpriority(os.PRIO_PROCESS, tid) < os.getpriority(os.PRIO_PROCESS, 0)]
        assert not urgent, "as the agent's loop is, which only hears of the owner"
        wait_for("another one", lambda: spare(g), 10)
        for killed in 0, 1:  # what has died since it was started is started again
            wait_for("a spare", lambda: spare(g), 10)
            os.kill(spare(g)[killed], signal.SIGKILL)
            second = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)
            g.yado("cancel", job)
            g.wait_state(second, "running")
            assert len(g.pids(" pager", f"/vm/{second}.")) == 1
            job = second
        g.owner("pc-1", "leave")
        wait_for("nothing to wait while the owner is there", lambda: not g.pids("/vm/spare"), 10)
        g.owner("pc-1", "auto")
        wait_for("a spare", lambda: spare(g), 10)
        g.agents["pc-1"].kill()
        wait_for("it to end with its agent", lambda: not g.pids("/vm/spare"), 10)


class AsNobody(Loopback):
    """The agents named here run as nobody."""

    def __init__(self):
        self.names = set()

    def enter(self, name):
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] \
            if name in self.names else []


@pytest.mark.skipif(os.getuid() != 0, reason="not root here")
def test_an_agent_that_comes_back_without_its_rights():
    """It takes over the guest that it left, hands it over, and runs it again as what it is now."""
    net = AsNobody()
    with Grid(pcs=2, memory="300M", net=net, master_args=["--lease", "12s"]) as g:
        job = g.submit("--memory", "128M", "--", "sh", "-c", COUNTER)

        def go_on():
            wait_ticks(g, job)
            check_ticks(g, job)

        g.wait_state(job, "running")
        go_on()
        part = g.parts(job)[0]
        was = part["pc"]
        g.agents[was].kill(signal.SIGTERM)
        subprocess.run(["chown", "-R", "nobody:nogroup", g.dir / was], check=True)
        net.names.add(was)
        g.agents[was].start()
        wait_free(g, pc=was)
        go_on()
        assert g.parts(job)[0]["epoch"] == part["epoch"] and not g.moves(job)
        g.owner(was, "leave")
        to = g.wait_elsewhere(job, was)
        go_on()
        g.owner(was, "auto")
        g.owner(to, "leave")
        assert g.wait_elsewhere(job, to) == was
        go_on()


# -- the input watcher ---------------------------------------------------------------------------

EV_SYN, EV_KEY, EV_LED = 0, 1, 0x11


def press(fd, kind=EV_KEY, code=30):
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    os.write(fd, struct.pack("qqHHi", now // 1000000, now % 1000000, kind, code, 1))
    return now


def records(out, wait):
    end, data = time.monotonic() + wait, b""
    while time.monotonic() < end:
        if select.select([out], [], [], 0.02)[0]:
            data += os.read(out.fileno(), 4096)
    assert len(data) % 9 == 0
    return [(chr(data[i]), struct.unpack_from("Q", data, i + 1)[0]) for i in range(0, len(data), 9)]


def test_the_watcher_says_that_something_moved_and_no_more(tmp_path):
    os.chmod(tmp_path, 0o755)
    os.mkfifo(tmp_path / "event0", 0o666)
    # Read and write: the FIFO is never without a writer.
    first = os.open(tmp_path / "event0", os.O_RDWR | os.O_NONBLOCK)
    proc = subprocess.Popen([YADO, "owner-watch"], stdin=subprocess.PIPE,
                            env=dict(os.environ, YADO_INPUT_DIR=str(tmp_path)),
                            stdout=subprocess.PIPE)
    try:
        assert records(proc.stdout, 0.5) == [("d", 1)]
        at = press(first)
        assert records(proc.stdout, 0.1) == [("m", at)], "the first at once, with its own time"
        for _ in range(50):
            press(first)
        assert records(proc.stdout, 0.05) == [], "then a moment's silence"
        time.sleep(0.3)
        press(first, EV_LED)
        press(first, EV_SYN)
        assert records(proc.stdout, 0.1) == [], "a lamp is not an owner"
        # A keyboard is plugged in.
        os.mkfifo(tmp_path / "event7", 0o666)
        second = os.open(tmp_path / "event7", os.O_RDWR | os.O_NONBLOCK)
        assert records(proc.stdout, 0.3) == [("d", 2)]
        at = press(second)
        assert records(proc.stdout, 0.1) == [("m", at)]
        confined = re.search(r"^Seccomp:\s+(\d)", open(f"/proc/{proc.pid}/status").read(), re.M)
        assert confined.group(1) == "2"
        proc.stdin.close()
        assert proc.wait(5) == 0, "it ends with its agent"
    finally:
        proc.kill()


def test_the_agent_starts_the_watcher_again():
    with Grid(pcs=1, agent_args=["--owner-sources", "evdev"]) as g:
        def watcher():
            agent = g.agents["pc-1"].pid
            for p in os.listdir("/proc"):
                try:
                    if p.isdigit() and b"owner-watch" in open(f"/proc/{p}/cmdline", "rb").read() \
                            and f"PPid:\t{agent}\n" in open(f"/proc/{p}/status").read():
                        return int(p)
                except OSError:
                    pass
            return None
        first = wait_for("the watcher", watcher, 10)
        wait_free(g)
        os.kill(first, signal.SIGKILL)
        second = wait_for("another watcher", lambda: watcher() not in (None, first) and watcher(), 15)
        g.agents["pc-1"].kill()
        wait_for("the watcher to go with its agent",
                 lambda: not os.path.exists(f"/proc/{second}"), 10)


def test_doctor(tmp_path):
    with Grid(pcs=1) as g:
        found = g.run("doctor", "--json", "--state", g.dir / "pc-1")
        answer = json.loads(found.stdout)
        checks = {c["name"]: c for c in answer["checks"]}
        assert answer["ok"] and found.returncode == 0, answer
        assert checks["master"]["status"] == checks["class"]["status"] == "ok"
        assert checks["clock"]["status"] == "ok" and "QEMU" in checks["qemu"]["text"]
        assert all(c["remedy"] for c in checks.values() if c["status"] != "ok")
        text = g.run("doctor", "--qemu", "/bin/false", "--state", tmp_path)
        assert text.returncode == 1
        assert re.search(r"^fail  qemu ", text.stdout, re.M) and "->" in text.stdout
        assert "yado enroll" in text.stdout
