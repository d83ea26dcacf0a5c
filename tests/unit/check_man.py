#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every command of `yado --help` has a man page that knows every option of its own --help, and
the shell completion knows the command. Usage: check_man.py YADO SOURCE_ROOT"""
import pathlib
import re
import subprocess
import sys

yado, root = sys.argv[1], pathlib.Path(sys.argv[2])
pages = {}
for path in sorted((root / "docs/man").iterdir()):
    text = path.read_text()
    for name in re.findall(r"^\.Nm (yado-[\w-]+)", text.split(".Sh SYNOPSIS")[0], re.M):
        if path.suffix != ".5":
            pages[name] = (path.name, text)


def run(*args):
    r = subprocess.run([yado, *args], capture_output=True, text=True, timeout=20)
    return r.returncode, r.stdout, r.stderr


bad = []
status, overview, _ = run("--help")
commands = re.findall(r"^  (\w[\w-]*) +\S", overview, re.M)
assert status == 0 and len(commands) > 20, overview
completion = (root / "packaging/yado.bash-completion").read_text()
overview_page = (root / "docs/man/yado.1").read_text()
options = 0
for command in commands:
    page, text = pages.get("yado-" + command, (None, ""))
    if page is None:
        bad.append(f"{command}: no man page has it in its NAME section")
    if not re.search(rf"\b{command}\b", completion):
        bad.append(f"{command}: not in packaging/yado.bash-completion")
    if page and page.rsplit(".", 1)[0] not in re.findall(r"\.(?:It )?Xr (\S+)", overview_page):
        bad.append(f"{command}: yado(1) does not refer to {page}")
    status, shown, err = run(command, "--help")
    if status != 0 and "this build has no" in err:
        continue  # a build without that folder
    if status != 0 or not shown:
        bad.append(f"{command} --help: status {status}: {err.strip()}")
        continue
    for option in sorted(set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", shown))):
        options += 1
        if not re.search(rf"\bFl {re.escape(option[1:])}(?![\w-])", text):
            bad.append(f"{command}: {option} is in --help and not in {page}")
        if option.startswith("--") and option not in completion:
            bad.append(f"{command}: {option} is not in packaging/yado.bash-completion")
print("\n".join(bad) or f"{len(commands)} commands, {options} options: all in the man pages")
sys.exit(bool(bad))
