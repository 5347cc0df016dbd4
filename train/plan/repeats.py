"""When a domain begins anew: the samples at which its second, third, ... epoch begins."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any

import numpy as np

from data.mixture.plan import Plan
from train.places import Steps, place_of
from train.recipe import Recipe

LISTED = 3  # of many repeats the first few are listed, and the last


def repeats(plan: Plan, recipe: Recipe, steps: Steps, domain: int, samples: int) -> dict[str, Any]:
    """How often a domain (its number) begins anew in the run, in which it gives `samples` samples, and where."""
    epochs = plan.orders[domain].epochs
    count = int(epochs.locate(np.array(max(0, samples - 1)))[0])
    listed = [epoch for epoch in range(1, count + 1) if epoch <= LISTED or epoch == count]
    return {
        "count": count,
        "begin": [
            {"epoch": epoch, **place_of(recipe, steps, sample_of_draw(plan, domain, epochs.begin(epoch), recipe.end))}
            for epoch in listed
        ],
    }


def sample_of_draw(plan: Plan, domain: int, draw: int, end: int) -> int:
    """The sample that is draw number `draw` (from 0) of a domain, which has more draws than that before `end`."""

    def delivered(sample: int) -> int:
        return int(plan.delivered(sample)[domain])

    def asked(sample: int) -> int:
        return int(plan.asked(0, sample)[domain] * sample)

    # What is asked is known at once, and what is delivered is never far from it.
    guess = bisect_left(range(1, end), draw, key=asked)
    reach = 64
    while delivered(max(0, guess - reach)) > draw or delivered(guess + reach) <= draw:
        reach *= 8
    first = max(0, guess - reach)
    return first + bisect_right(range(first, guess + reach), draw, key=delivered) - 1
