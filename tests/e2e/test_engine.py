# SPDX-License-Identifier: Apache-2.0
"""The engine against real QEMUs (tests/unit/test_engine.c): chains of moves watched from outside,
memory compared page by page, a QEMU that hangs or dies, layers that do not fit."""
import os
import pathlib
import shutil
import subprocess

import pytest

FOLDER = pathlib.Path(os.environ.get("YADO", "build-test/yado")).resolve().parent / "src/vm"
QEMU_10 = os.environ.get("YADO_QEMU10", "/opt/qemu10/qemu-system-x86_64")
TESTS = {
    "test_engine": ["launch_errors", "frozen", "gone", "stop_under_load", "restore_refused",
                    "chain_unprivileged", "chain"],
    "test_engine_stuck": ["source_goes_away", "source_fails"],
}
ALL = [(binary, test) for binary, tests in TESTS.items() for test in tests]


def run(binary, test, **env):
    """A chain takes about 20 s on an idle PC."""
    result = subprocess.run([FOLDER / binary, f"test_{test}"], env={**os.environ, **env},
                            timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    assert "1 test(s) run" in result.stdout, result.stdout


@pytest.mark.parametrize("binary,test", ALL)
def test_engine(binary, test):
    run(binary, test)


@pytest.mark.parametrize("binary,test", [a for a in ALL if a[1] != "stop_under_load"])
def test_engine_qemu_10(binary, test):
    """The same on QEMU 10; the chain goes from the installed one to it, half way."""
    if not shutil.which(QEMU_10):
        pytest.skip("no QEMU 10 here")
    which = "YADO_TEST_QEMU_NEXT" if test == "chain" else "YADO_TEST_QEMU"
    run(binary, test, **{which: QEMU_10})
