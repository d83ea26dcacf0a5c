# SPDX-License-Identifier: Apache-2.0
"""A process that no longer answers anybody."""
import contextlib
import ctypes
import os
import threading

PTRACE_ATTACH, WALL = 16, 0x40000000


@contextlib.contextmanager
def traced(pid):
    """All threads of a process stand still, and no signal but a kill moves them: whatever its
    supervisor does, it does not answer."""
    libc = ctypes.CDLL(None, use_errno=True)
    attached, over = threading.Event(), threading.Event()

    def trace():  # the tracer is a thread: with it goes the trace
        tids = [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
        if any(libc.ptrace(PTRACE_ATTACH, tid, None, None) for tid in tids):
            return
        attached.set()
        while not over.wait(0.01):
            for tid in tids:  # a death is told to the tracer first
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(tid, os.WNOHANG | WALL)
    thread = threading.Thread(target=trace)
    thread.start()
    try:
        assert attached.wait(5), "cannot trace it"
        yield
    finally:
        over.set()
        thread.join()
