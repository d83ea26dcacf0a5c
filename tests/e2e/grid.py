# SPDX-License-Identifier: Apache-2.0
"""A whole grid on loopback for end-to-end tests: one real master, any number of real agents with
their own state folders, real QEMU guests. Leaving the `with` block kills everything it started,
supervisors, pagers and QEMUs included, also after a failure, and unmounts what they mounted."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import requests

import golden
from guest_host import records
from netns import Loopback

ROOT = pathlib.Path(__file__).resolve().parents[2]
YADO = os.environ.get("YADO", str(ROOT / "build/yado"))
IMAGES = os.environ.get("YADO_IMAGES", str(ROOT / "build/images"))
# A sanitizer's report must not hide: it goes to files that close() looks at.
SANITIZER = {"ASAN_OPTIONS": "handle_segv=2:detect_leaks=0:log_path={dir}/sanitizer",
             "UBSAN_OPTIONS": "print_stacktrace=1:log_path={dir}/sanitizer"}
FINAL = ("done", "failed", "cancelled")


class Failed(AssertionError):
    pass


def wait_for(what, check, timeout=60, every=0.05):
    """Polls check() until it returns something true; that value is returned."""
    end = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {timeout} s for {what}")
        time.sleep(every)


def remove_groups(state):
    """The control groups of an agent that was killed: see set_limits() in src/agent/agent.c."""
    h = 1469598103934665603
    for b in str(state).encode():
        h = (h ^ b) * 1099511628211 % 2**64
    name = f"yado-{(h ^ h >> 32) % 2**32:08x}"
    for top, folders, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if name in top.split("/"):
            with contextlib.suppress(OSError):
                os.rmdir(top)


def api_session(ca, token=None):
    """What speaks to a master over connections that stay."""
    session = requests.Session()
    session.trust_env = False  # no proxy, no other CA
    session.verify = str(ca)
    if token:
        session.headers["Authorization"] = "Bearer " + token.split(".")[-1]
    return session


class Process:
    """A daemon of the grid: started, killed, restarted; its log is a file."""

    def __init__(self, grid, name, args):
        self.grid, self.name, self.args = grid, name, args
        self.log = grid.dir / f"{name}.log"
        self.proc = None

    def start(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([*self.grid.net.enter(self.name), YADO, *self.args],
                                         stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         env=self.grid.daemon_env(self.name),
                                         start_new_session=True)
        return self

    @property
    def pid(self):
        return self.proc.pid

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def kill(self, sig=signal.SIGKILL, wait=True):
        if self.alive():
            self.proc.send_signal(sig)
        if wait and self.proc:
            return self.proc.wait(60)

    def text(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Grid:
    """Guests run in the normal class, so that another test's load does not make them wait; a bench,
    which is alone, measures the product's default.

    `net`: where its processes stand in the network, a Net of netns.py; else all on loopback.
    `fresh`: it boots its own golden layers, even where the session has some (golden.py)."""

    priority = "normal"

    def __init__(self, pcs=2, memory="600M", cpus="2", master_args=(), agent_args=(), builder=True,
                 net=Loopback(), fresh=False):
        self.net, self.fresh = net, fresh
        self.count_pcs, self.memory, self.cpus = pcs, memory, cpus
        self.master_args, self.agent_args, self.builder = list(master_args), list(agent_args), builder
        self.agents = {}

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="yado-e2e-", dir="/var/tmp"))
        os.chmod(self.dir, 0o755)
        self.env = dict(os.environ, YADO_CONFIG_DIR=str(self.dir / "client"), YADO_IMAGES=IMAGES,
                        **{k: v.format(dir=self.dir) for k, v in SANITIZER.items()})
        try:
            anywhere = f"{self.net.MASTER}:0"
            self.master = Process(self, "master", ["master", "--state", str(self.dir / "master"),
                                                   "--listen", anywhere, *self.master_args])
            if not self.fresh:
                golden.share(self.dir / "master", lambda: Grid(pcs=1, fresh=True))
            self.start_master()
            # The port stays the same over restarts.
            self.master.args[self.master.args.index(anywhere)] = self.url.split("//")[1]
            self.login(self.dir / "master")
            for i in range(self.count_pcs):
                self.add_pc(f"pc-{i + 1}", builder=self.builder and i == 0)
        except BaseException:
            self.__exit__(Failed, None, None)
            raise
        return self

    def __exit__(self, kind, value, trace):
        self.kill_all()
        reports = [p.read_text(errors="replace") for p in self.dir.glob("sanitizer*")]
        if kind is not None or reports:
            for log in sorted(self.dir.glob("*.log")) + sorted(self.dir.glob("pc-*/vm/*/*.log")):
                print(f"==== {log.relative_to(self.dir)}\n" + log.read_text(errors="replace")[-6000:])
        if not os.environ.get("YADO_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        if reports and kind is None:
            raise Failed("sanitizer report:\n" + "\n".join(reports))

    # -- processes ---------------------------------------------------------------------------

    def daemon_env(self, name):
        """A daemon's environment; for a test that gives one of its own."""
        return self.env

    def start_master(self):
        known = len(re.findall(r"ready at (https://\S+)", self.master.text()))
        self.master.start()

        def ready():
            if not self.master.alive():
                raise Failed("the master ended:\n" + self.master.text()[-3000:])
            found = re.findall(r"ready at (https://\S+)", self.master.text())
            return found[known:] and found[-1]
        self.url = wait_for("the master to be ready", ready, 30)

    def login(self, state):
        """As the administrator of the master with that state folder."""
        token = (state / "admin.token").read_text().strip()
        self.yado("login", self.url, token)
        self.session = api_session(state / "tls/ca.crt", token)
        return token

    def add_pc(self, name, builder=False):
        self.net.add(name)
        args = ["pcs", "token", "--json"] + (["--builder"] if builder else [])
        token = json.loads(self.yado(*args))["token"]
        state = str(self.dir / name)
        self.yado("enroll", self.url, token, "--name", name, "--state", state)
        self.agents[name] = Process(self, name, [
            "agent", "--state", state, "--idle-grace", "0", "--visit", "0",
            "--owner-sources", "none", "--priority", self.priority, "--memory-share", self.memory,
            "--cpu-share", self.cpus, *self.agent_args]).start()
        return self.agents[name]

    def pids(self, *words):
        """Processes of this grid whose command line holds every word."""
        found = []
        for p in pathlib.Path("/proc").iterdir():
            if not p.name.isdigit() or int(p.name) == os.getpid():
                continue
            try:
                line = (p / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.dir) in line and all(w in line for w in words):
                found.append(int(p.name))
        return found

    def cut_power(self, pc):
        """All of a PC at once; its disk stays."""
        end = time.monotonic() + 5
        while pids := self.pids(str(self.dir / pc)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert time.monotonic() < end
        self.agents[pc].kill()

    def kill_all(self):
        for _ in range(20):
            pids = self.pids()
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for p in [self.master, *self.agents.values()]:
                if p.proc:
                    p.proc.poll()
            if not pids:
                break
            time.sleep(0.05)
        for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()[::-1]:
            if line.split()[1].startswith(str(self.dir)):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)
        for name in self.agents:
            remove_groups(self.dir / name)
        left = self.pids()
        if left:
            print(f"left behind: {left}")

    # -- the command line --------------------------------------------------------------------

    def run(self, *args, timeout=120, input=None):
        return subprocess.run([*self.net.enter("master"), YADO, *map(str, args)], env=self.env,
                              capture_output=True, text=True, timeout=timeout, input=input)

    def yado(self, *args, timeout=120):
        r = self.run(*args, timeout=timeout)
        if r.returncode:
            raise Failed(f"yado {' '.join(map(str, args))}: status {r.returncode}\n{r.stderr}{r.stdout}")
        return r.stdout

    def json(self, *args):
        return json.loads(self.yado(args[0], "--json", *args[1:]))  # before a job's "--"

    def submit(self, *args):
        # Before the words of the command, which are the job's.
        return int(json.loads(self.yado("submit", "--json", *args))["id"])

    # -- what tests look at again and again: each time a process would cost more than the answer ----

    def get(self, path, *more_statuses):
        """Its answers are what --json prints."""
        with self.net.inside("master"):
            r = self.session.get(f"{self.url}/v1/{path}", timeout=120)
        if r.status_code not in (200, *more_statuses):
            raise Failed(f"{path}: status {r.status_code}\n{r.text}")
        return r

    def job(self, job):
        return self.get(f"jobs/{job}").json()

    def parts(self, job):
        return self.job(job)["parts_list"]

    def wait_state(self, job, *states, timeout=120):
        """Waits until every part of the job is in one of the states."""
        def check():
            parts = self.parts(job)
            for p in parts:
                if p["state"] in FINAL and p["state"] not in states:
                    raise Failed(f"it is {p['state']} for good")
            return parts and all(p["state"] in states for p in parts) and parts
        try:
            return wait_for(f"job {job} to be {states}", check, timeout)
        except Failed as e:
            raise Failed(f"{e}: {self.parts(job)}") from None

    def wait_elsewhere(self, job, pc, timeout=60):
        """Waits until the job's one part runs on another PC than that; its name."""
        return wait_for(f"job {job} to run elsewhere than on {pc}", lambda: [
            p["pc"] for p in self.parts(job) if p["state"] == "running" and p["pc"] != pc],
            timeout)[0]

    def log(self, job, part=0, stream="out"):
        """As `yado logs` shows it."""
        data, end, cuts = b"", 1, ""
        while len(data) < end:
            r = self.get(f"jobs/{job}/parts/{part}/log?offset={len(data)}{cuts}", 416)
            data = data + r.content if r.status_code == 200 else b""  # it was cut meanwhile
            end, cuts = int(r.headers["Yado-Log-End"]), f"&cuts={r.headers['Yado-Log-Cuts']}"
        return b"".join(d for s, d in records(data) if s == ["", "out", "err"].index(stream)).decode()

    def moves(self, job=0):
        return self.get(f"moves?limit=1000&job={job}").json()["moves"]

    def owner_says(self, pc, word):
        """What `owner` says to the agent, without the time that a program takes to start."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(self.dir / pc / "owner.sock"))
            s.sendall(json.dumps({"cmd": word, "at_us": time.monotonic_ns() // 1000}).encode() + b"\n")
            assert json.loads(s.recv(65536)).get("error") is None

    def owner(self, pc, *words):
        return self.yado("owner", *words, "--state", self.dir / pc)
