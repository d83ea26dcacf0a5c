# SPDX-License-Identifier: Apache-2.0
"""Where a machine lacks something the test says so by a skip; CI fails on a skip that it did not
expect, so that a missing tool cannot turn the tests off unseen.

Three run at once (`make e2e`), since a test mostly waits. Modules whose tests share a fixture are
marked as an xdist_group and stay together, in order; all others go where there is room."""
import os

import golden

# Reasons that are facts of a machine, not of its set-up.
EXPECTED = ("no KVM here", "no QEMU 10 here", "no input devices here")
unexpected = []

# These take a minute and more: begun last, they would be waited for alone.
LONG = ("test_debian.py", "test_kill.py", "test_supervisor.py", "test_drive.py", "test_faults.py",
        "test_counter_over_fifty_moves_in_a_row", "test_power_cuts_at_random_moments")


def is_worker(config):
    return hasattr(config, "workerinput")


def pytest_configure(config):
    if not is_worker(config):
        golden.begin_session()  # the workers inherit it


def pytest_unconfigure(config):
    if not is_worker(config):
        golden.end_session()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: not any(word in i.nodeid for word in LONG))


def pytest_runtest_logreport(report):
    if report.skipped:
        reason = str(report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else report.longrepr)
        if not any(e in reason for e in EXPECTED):
            unexpected.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session, exitstatus):
    if unexpected and os.environ.get("CI"):
        print("\nunexpected skips:\n" + "\n".join(unexpected))
        session.exitstatus = 1
