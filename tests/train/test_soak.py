"""Thirty random kills, and nothing is lost; `make soak` goes on for as long as it is told."""

import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from soak import WAYS, WITHOUT_CHANCE, Soak, Way, worst_differences

ROOT = Path(__file__).resolve().parents[2]
KILLS = 30
ON_ONE_LAYOUT = 4


def test_random_kills_with_another_layout_after_each(workshop: SimpleNamespace) -> None:
    """No sample is lost or repeated, and losses are those of an undisturbed run, within the noise of reductions."""
    run = Soak(workshop, "soaked", WAYS, WITHOUT_CHANCE, random.Random(5), print)
    for number in range(KILLS):
        run.kill(number)
    rows = run.end()
    before, worst = worst_differences(rows, run.undisturbed(len(rows)))
    assert before < 1e-5 and worst < 1e-2


def test_random_kills_on_one_layout_change_no_bit(workshop: SimpleNamespace) -> None:
    """With dropout and jitter, on two ranks that share the experts out: everything that is reported of each step."""
    run = Soak(workshop, "soaked-alike", [Way(ranks=2, ep=2, microbatch=2, workers=1)], [], random.Random(6), print)
    for number in range(ON_ONE_LAYOUT):
        run.kill(number)
    rows = run.end()
    assert rows == run.undisturbed(len(rows))


def test_make_soak_starts() -> None:
    """By the Makefile's own command; the test above runs with the path that pytest makes. A make that was called by
    a make says so in lines of its own."""
    said = subprocess.run(
        ["make", "-n", "soak", "MINUTES=--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    [command] = [line for line in said.stdout.splitlines() if "soak.py --help" in line]
    ran = subprocess.run(
        command.replace(".venv/bin/python", sys.executable), shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0 and "MINUTES" in ran.stdout, ran.stderr
