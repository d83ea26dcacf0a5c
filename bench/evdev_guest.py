# SPDX-License-Identifier: Apache-2.0
"""Real key presses on a machine without a keyboard: a small QEMU guest with a PS/2 keyboard and
evdev. press() injects a key through QMP; the guest's /dev/input/event0 is relayed over virtio-serial
into a FIFO that stands for the device node here."""
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

MODULES = ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
           "virtio_console", "evdev"]
INIT = """#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in {modules}; do insmod /modules/$m.ko; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /dev/input/event0 ] && [ -e /dev/vport0p1 ] && break; sleep 0.2; done
for e in /dev/input/event*; do
  n=$(cat /sys/class/input/${{e##*/}}/device/name)
  case "$n" in *eyboard*) keyboard=$e;; esac
done
echo "relay $keyboard" > /dev/console
# A record is 24 bytes; cat passes on what one read returns.
exec cat $keyboard > /dev/vport0p1
"""


RECORD = 24  # struct input_event


class EvdevGuest:
    def __init__(self, images, input_dir):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="yado-evdev-", dir="/var/tmp"))
        self.fifo = pathlib.Path(input_dir) / "event0"
        os.mkfifo(self.fifo)
        self.fifo_fd = os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK)
        self._make_initrd(pathlib.Path(images))
        self.proc = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "pc", "-m", "128", "-nodefaults", "-display", "none",
             "-kernel", f"{images}/vmlinuz", "-initrd", self.dir / "initrd",
             "-append", "console=ttyS0 quiet rdinit=/init", "-serial", f"file:{self.dir}/console.log",
             "-qmp", f"unix:{self.dir}/qmp,server=on,wait=off", "-device", "virtio-serial-pci",
             "-chardev", f"socket,id=relay,path={self.dir}/relay,server=on,wait=off",
             "-device", "virtserialport,chardev=relay,name=events"],
            stdin=subprocess.DEVNULL)
        self.qmp = self._connect("qmp")
        # What stands for hardware must not wait for a core.
        for task in os.listdir(f"/proc/{self.proc.pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(task), -20)
        self.qmp_file = self.qmp.makefile("r")
        self.qmp_file.readline()
        self._command({"execute": "qmp_capabilities"})
        self.relay = self._connect("relay")
        self.pressed_us = self.arrived_us = 0
        self.seen = threading.Event()
        threading.Thread(target=self._pump, daemon=True).start()
        end = time.monotonic() + 60
        while not self.seen.is_set():  # until the guest is up, presses go nowhere
            if time.monotonic() > end:
                raise RuntimeError("no key arrived: " + (self.dir / "console.log").read_text()[-500:])
            self.press()
            self.seen.wait(0.5)

    def _make_initrd(self, images):
        tree = self.dir / "tree"
        for d in ("bin", "modules", "dev", "proc", "sys"):
            (tree / d).mkdir(parents=True)
        shutil.copy("/bin/busybox", tree / "bin/busybox")
        for name in ("sh", "mount", "insmod", "sleep", "cat"):
            (tree / "bin" / name).symlink_to("busybox")
        for name in MODULES:
            (found,) = (images / "kernel/modules").rglob(f"{name}.ko")
            shutil.copy(found, tree / "modules")
        (tree / "init").write_text(INIT.format(modules=" ".join(MODULES)))
        (tree / "init").chmod(0o755)
        subprocess.run("find . | cpio --quiet -o -H newc > ../initrd", shell=True, cwd=tree, check=True)

    def _connect(self, name):
        for _ in range(200):
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(str(self.dir / name))
                return s
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"no {name} socket")

    def _command(self, command):
        self.qmp.sendall(json.dumps(command).encode())
        while "return" not in (reply := json.loads(self.qmp_file.readline())):
            if "error" in reply:
                raise RuntimeError(reply["error"]["desc"])

    def _pump(self):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -20)
        """Records pass with the time of the press (this PC's clock) for the time in the guest's."""
        held = b""
        while data := self.relay.recv(4096):
            self.seen.set()
            held += data
            whole, held = held[:len(held) // RECORD * RECORD], held[len(held) // RECORD * RECORD:]
            now = struct.pack("qq", *divmod(self.pressed_us, 1000000))
            out = b"".join(now + whole[i + 16:i + RECORD] for i in range(0, len(whole), RECORD))
            self.arrived_us = self.arrived_us or time.monotonic_ns() // 1000
            try:
                os.write(self.fifo_fd, out)
            except BlockingIOError:
                pass

    def press(self):
        """Presses and releases a key; returns CLOCK_MONOTONIC in microseconds just before. Then
        arrived_us is the time at which it could first be read from the node here."""
        self.arrived_us = 0
        self.pressed_us = at = time.monotonic_ns() // 1000
        for down in (True, False):
            self._command({"execute": "input-send-event", "arguments": {"events": [
                {"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": "shift"}}}]}})
        return at

    def close(self):
        self.proc.kill()
        self.proc.wait()
        os.close(self.fifo_fd)
        shutil.rmtree(self.dir, ignore_errors=True)
