"""Thirty random kills, and nothing is lost; `make soak` goes on for as long as it is told."""

import random
from types import SimpleNamespace

from soak import WAYS, WITHOUT_CHANCE, Soak, Way, worst_differences

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
