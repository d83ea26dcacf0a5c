#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Enforces docs/ARCHITECTURE.md: which folder may include which, and that the pure archives
touch neither clock nor socket nor file. Usage: check_layout.py SOURCE_ROOT [ARCHIVE ...]"""
import pathlib
import re
import subprocess
import sys

LOW = {"base", "grid", "plan", "wire", "mail", "libyado", "layer", "state", "depot", "vm", "host"}
MAY = {
    "base": set(),
    "grid": {"base"},
    "plan": {"base"},
    "wire": {"base", "plan"},
    "mail": {"base", "wire"},
    "libyado": {"base", "wire"},
    "layer": {"base", "plan", "wire"},
    "state": {"base", "grid"},
    "depot": {"base"},
    "vm": {"base", "wire", "layer"},
    "host": {"base"},
    "guest": {"base", "wire", "libyado"},
    "master": LOW,
    "agent": LOW,
    "cli": LOW,
    "sim": LOW - {"host", "vm"},
}
# The core's own headers may be read by state only for its records.
PURE = {"grid", "plan", "wire", "mail", "layer"}
SYSTEM_FORBIDDEN = re.compile(
    r"#include <(time|sys/time|sys/socket|pthread|unistd|fcntl|sys/random|signal|poll)\.h>")
SYMBOLS_FORBIDDEN = re.compile(
    r"^(clock_gettime|time|gettimeofday|nanosleep|socket|connect|send|recv|open|openat|fopen|read|"
    r"write|pthread_create|getrandom|rand|random|srand|getenv)$")


def check_includes(root):
    bad = []
    for path in sorted((root / "src").rglob("*.[ch]")):
        parts = path.relative_to(root / "src").parts
        if len(parts) < 2:
            continue  # src/main.c knows every command
        folder = parts[0]
        text = path.read_text()
        for used in re.findall(r'#include "(\w+)/', text):
            if used != folder and used not in MAY[folder]:
                bad.append(f"{path.relative_to(root)}: src/{folder} may not include {used}/")
        for line in text.splitlines():
            if folder in PURE and SYSTEM_FORBIDDEN.match(line):
                bad.append(f"{path.relative_to(root)}: {folder} is pure: {line}")
    for path in sorted((root / "apps").rglob("*.[ch]")):
        if re.search(r'#include "(\.\./)*src/', path.read_text()):
            bad.append(f"{path.relative_to(root)}: apps use public headers only")
    return bad


def check_symbols(archive):
    out = subprocess.run(["nm", "--undefined-only", "--format=posix", archive],
                         capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in out.splitlines() if " U" in line}
    assert names, f"nm found nothing in {archive}"
    return [f"{archive}: pure, but uses {n}()" for n in sorted(names) if SYMBOLS_FORBIDDEN.match(n)]


def main():
    root = pathlib.Path(sys.argv[1])
    folders = {p.name for p in (root / "src").iterdir() if p.is_dir()}
    unknown = folders - set(MAY)
    bad = [f"src/{f}: not in the table of folders" for f in sorted(unknown)]
    if not bad:
        bad = check_includes(root)
    for archive in sys.argv[2:]:
        bad += check_symbols(archive)
    print("\n".join(bad) or f"{len(folders)} folders keep the table; {len(sys.argv) - 2} archives are pure")
    sys.exit(bool(bad))


main()
