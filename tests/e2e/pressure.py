# SPDX-License-Identifier: Apache-2.0
"""A kernel that is short of memory, for a guest's memory that comes through the pager; and a guest's
program that notices when a page of it is wrong."""
import ctypes
import os
import struct

PROCESS_MADVISE, MADV_PAGEOUT = 440, 21  # the numbers are those of every architecture

# It reads all that it holds again and again: digest, tick, digest, ...
HOLDER = ("head -c 24000000 /dev/urandom > /tmp/a; i=0; while :; do sha256sum < /tmp/a; i=$((i+1)); "
          "echo tick $i; usleep 20000; done")


def page_out(qemu, supervisor, vm_dir):
    """Takes from a guest's QEMU what it has mapped of the pager's file, and from the page cache what
    is in it of that file: all is read again when it is used."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(qemu)
    try:
        for line in open(f"/proc/{qemu}/maps"):
            span, *_, name = line.split(maxsplit=5)
            if name.strip() != f"{vm_dir}/mnt/memory":
                continue
            first, end = (int(a, 16) for a in span.split("-"))
            done = libc.syscall(PROCESS_MADVISE, pidfd, struct.pack("QQ", first, end - first),
                                ctypes.c_ulong(1), MADV_PAGEOUT, 0)
            assert done == end - first, os.strerror(ctypes.get_errno())
    finally:
        os.close(pidfd)
    # The mount is in the supervisor's own namespace.
    with open(f"/proc/{supervisor}/root{vm_dir}/mnt/memory", "rb", buffering=0) as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
