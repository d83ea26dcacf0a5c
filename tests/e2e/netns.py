# SPDX-License-Identifier: Apache-2.0
"""A star of network namespaces: the master's in the middle, one for each PC, joined by veth pairs.
Needs root. A namespace lives by a process that dies with ours, and takes its devices along: nothing
is left behind, whatever happens.

    with Net(rate="1gbit") as net, Grid(net=net) as grid: net.cut("pc-1")
"""
import contextlib
import ctypes
import pathlib
import signal
import subprocess

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


def isolate():
    """Runs in the child, before the program."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespaces here")


class Loopback:
    """What Net offers where there are no namespaces: all share one and meet on loopback."""
    MASTER = "127.0.0.1"

    def add(self, name):
        pass

    def enter(self, name):
        return []

    def inside(self, name):
        return contextlib.nullcontext()

    def address(self, name):
        return self.MASTER

    def sent_bytes(self, name):
        return 0  # nobody counts


class Net:
    """`rate` (as tc writes it, such as "1gbit") bounds each direction of each PC's link."""
    MASTER = "10.77.0.1"

    def __init__(self, rate=None):
        self.rate, self.holders = rate, {}

    def __enter__(self):
        try:
            self.hold("master")
            self.ip("master", "addr", "add", f"{self.MASTER}/32", "dev", "lo")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for p in self.holders.values():
            p.kill()
            p.wait()

    def hold(self, name):
        """When Popen returns the program runs, and so the namespace is there."""
        self.holders[name] = subprocess.Popen(["sleep", "infinity"], preexec_fn=isolate)
        self.ip(name, "link", "set", "lo", "up")

    def enter(self, name):
        """What goes before a command that is to run there."""
        return ["nsenter", f"--net={self.path(name)}", "--"]

    @contextlib.contextmanager
    def inside(self, name):
        """This thread is there meanwhile; a socket that it makes stays there."""
        with open("/proc/thread-self/ns/net") as back, open(self.path(name)) as there:
            libc.setns(there.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                libc.setns(back.fileno(), CLONE_NEWNET)

    def path(self, name):
        return f"/proc/{self.holders[name].pid}/ns/net"

    def run(self, name, *command):
        subprocess.run([*self.enter(name), *map(str, command)], check=True)

    def ip(self, name, *words):
        self.run(name, "ip", *words)

    def address(self, name):
        return f"10.77.0.{1 + list(self.holders).index(name)}"

    def add(self, name):
        """A PC and its link."""
        self.hold(name)
        self.ip(name, "link", "add", "eth0", "type", "veth", "peer", "name", name,
                "netns", self.holders["master"].pid)
        self.ip(name, "addr", "add", f"{self.address(name)}/32", "dev", "eth0")
        self.ip(name, "link", "set", "eth0", "up")
        self.ip(name, "route", "add", self.MASTER, "dev", "eth0")
        self.join(name)
        if self.rate:
            for place, device in ((name, "eth0"), ("master", name)):
                self.run(place, "tc", "qdisc", "add", "dev", device, "root", "tbf",
                         "rate", self.rate, "burst", "256kb", "latency", "20ms")

    def cut(self, name):
        """Pulls the cable: no carrier at the PC, what is sent is lost."""
        self.ip("master", "link", "set", name, "down")

    def join(self, name):
        self.ip("master", "link", "set", name, "up")
        self.ip("master", "route", "replace", self.address(name), "dev", name, "src", self.MASTER)

    def sent_bytes(self, name):
        """What has left the PC so far, headers included."""
        lines = pathlib.Path(f"/proc/{self.holders[name].pid}/net/dev").read_text().splitlines()
        (counters,) = [line.split(":")[1].split() for line in lines if "eth0:" in line]
        return int(counters[8])
