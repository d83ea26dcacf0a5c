# SPDX-License-Identifier: Apache-2.0
"""Where a machine lacks something the test says so by a skip; CI fails on a skip that it did not
expect, so that a missing tool cannot turn the tests off unseen."""
import os

# Reasons that are facts of a machine, not of its set-up.
EXPECTED = ("no KVM here", "no QEMU 10 here", "no input devices here")
unexpected = []


def pytest_runtest_logreport(report):
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(e in reason for e in EXPECTED):
            unexpected.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session, exitstatus):
    if unexpected and os.environ.get("CI"):
        print("\nunexpected skips:\n" + "\n".join(unexpected))
        session.exitstatus = 1
