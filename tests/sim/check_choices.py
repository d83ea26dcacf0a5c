#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the grid chooses, by the simulator: splits of random jobs and pools that are nearly the best,
whatever owners are like; PCs that stay free, so that there are fewer moves. bench/sim measures more
of the same. Usage: check_choices.py YADO"""
import json
import subprocess
import sys


def sim(*args):
    return json.loads(subprocess.run([sys.argv[1], "sim", *args, "--json"], check=True,
                                     capture_output=True, text=True, timeout=250).stdout)


cases = sim("plan", "--count", "24", "--seed", "3")["cases"]
worse = [c["worse_percent"] for c in cases]
assert {c["owners"] for c in cases} == {"poisson", "weibull", "trace"}
assert max(worse) <= 15 and sum(w <= 5 for w in worse) >= 0.9 * len(worse), worse

habit, first_fit = sim("grid", "--days", "2")["rules"][:2]
assert habit["moves"] <= 0.8 * first_fit["moves"], (habit, first_fit)
assert habit["moves"] < habit["parts_done"], habit
assert habit["goodput_percent"] >= first_fit["goodput_percent"] - 0.5, (habit, first_fit)
print(f"{len(cases)} cases, at worst {max(worse):.1f} %; {habit['moves']} moves, "
      f"first-fit {first_fit['moves']}")
