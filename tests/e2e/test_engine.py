# SPDX-License-Identifier: Apache-2.0
"""The engine against real QEMUs (tests/unit/test_engine.c): chains of moves watched from outside,
memory compared page by page, a QEMU that hangs or dies, layers that do not fit."""
import os
import pathlib
import shutil
import subprocess

import pytest

BINARY = pathlib.Path(os.environ.get("YADO", "build-test/yado")).parent / "src/vm/test_engine"
QEMU_10 = os.environ.get("YADO_QEMU_10", "/opt/qemu10/qemu-system-x86_64")


def run(test, **env):
    result = subprocess.run([BINARY, test], env={**os.environ, **env}, timeout=400,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout
    assert "1 test(s) run" in result.stdout, result.stdout


@pytest.mark.parametrize("test", ["launch_errors", "frozen", "gone", "restore_refused",
                                  "chain_unprivileged", "chain"])
def test_engine(test):
    run(f"test_{test}")


def test_chain_onto_newer_qemu():
    """Half of the chain on the installed QEMU, the other half on 10."""
    if not shutil.which(QEMU_10):
        pytest.skip("no QEMU 10 here")
    run("test_chain", YADO_TEST_QEMU_NEXT=QEMU_10)
