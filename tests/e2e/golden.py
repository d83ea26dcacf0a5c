# SPDX-License-Identifier: Apache-2.0
"""Golden layers that the grids of a test session share. The first grid that wants them has them
booted, as any grid does; the master of each later one begins with their rows and blobs and with
nothing else: its first job has number 1 and starts at once. A size that is not among them is booted
where it is asked for."""
import fcntl
import os
import pathlib
import shutil
import signal
import sqlite3
import tempfile

SIZES = ("128M", "96M")
# Where the session has them (conftest.py); without, as in a bench, every grid boots its own.
FOLDER = "YADO_GOLDEN"
KEPT = ("meta", "image", "image_content", "golden")


def begin_session():
    os.environ[FOLDER] = tempfile.mkdtemp(prefix="yado-golden-", dir="/var/tmp")


def end_session():
    shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)


def share(state, boot):
    """Makes a master's state folder before its first start. `boot` gives a grid that boots them."""
    if FOLDER not in os.environ:
        return
    folder = pathlib.Path(os.environ[FOLDER])
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other lanes of tests wait
        if not (folder / "master").exists():
            make(folder / "new", boot)
            (folder / "new").rename(folder / "master")
    # The depot never writes into a blob that has its name: links will do.
    shutil.copytree(folder / "master", state, copy_function=lambda old, new: (
        shutil.copy if new.endswith(".db") else os.link)(old, new))


def make(new, boot):
    shutil.rmtree(new, ignore_errors=True)  # of a try that failed
    with boot() as g:
        for job in [g.submit("--memory", size, "--", "true") for size in SIZES]:
            g.wait_state(job, "done")
        g.master.kill(signal.SIGTERM)
        (new / "depot").mkdir(parents=True)
        for digest in forget_all_else(g.dir / "master/grid.db"):
            (new / "depot" / digest[:2]).mkdir(exist_ok=True)
            for blob in (g.dir / "master/depot" / digest[:2]).glob(f"{digest}*"):
                blob.rename(new / "depot" / digest[:2] / blob.name)
        (g.dir / "master/grid.db").rename(new / "grid.db")


def forget_all_else(file):
    """What is left are golden layers, whose digests it returns, and what they are of."""
    db = sqlite3.connect(file)
    try:
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            if table not in KEPT:
                db.execute(f"DELETE FROM {table}")
        db.execute("UPDATE meta SET next_job = 1, next_pc = 1, next_queue_key = 1, log_seq = 1, move_seq = 1")
        db.commit()
        return [d for (d,) in db.execute("SELECT lower(hex(layer)) FROM golden")]
    finally:
        db.close()  # the last one to: the file is whole without its log
