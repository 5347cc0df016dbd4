"""`brickyard plan RECIPE --samples A:B`: which domain, epoch and row each of these samples is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data.mixture.order import epochs_of
from data.mixture.plan import Plan
from data.mixture.times import UNITS
from data.patience import Say
from train.errors import RecipeError
from train.recipe import Recipe

AT_ONCE = 1 << 16  # samples that are worked out and printed together


def read_range(text: str, recipe: Recipe) -> tuple[int, int]:
    """The samples `first <= n < last` that `A:B` names; either may be a time, and either may be left out.

    Raises:
        RecipeError: it is no such range, or goes beyond the run.
    """
    try:
        first, last = text.split(":")
        start, stop = read_place(first or "0", recipe), read_place(last or str(recipe.end), recipe)
    except ValueError:
        expected = "expected a range such as 0:20, 1.5M:1_500_020 or 10ba:11ba"
        raise RecipeError(f"--samples {text}: {expected}") from None
    if not start < stop <= recipe.end:
        raise RecipeError(f"--samples {text}: expected A below B, and B at most {recipe.end:,}, where the run ends")
    return start, stop


def read_place(text: str, recipe: Recipe) -> int:
    """A number without a unit counts samples."""
    return recipe.samples(text if text.endswith(tuple(UNITS)) else f"{text}sp")


def print_samples(plan: Plan, start: int, stop: int, *, as_json: bool, say: Say) -> None:
    """Print samples `start <= n < stop`, in memory that does not grow with their number."""
    if as_json:
        line = json_lines(plan)
    else:
        heading, line = table_lines(plan, stop)
        print(heading)
    for first in range(start, stop, AT_ONCE):
        last = min(first + AT_ONCE, stop)
        sys.stdout.write(line(plan[first:last]))
        say(f"{last - start:,} of {stop - start:,} samples listed")


Lines = Callable[[NDArray[np.void]], str]


def json_lines(plan: Plan) -> Lines:
    names = [json.dumps(domain) for domain in plan.domains]

    def lines(samples: NDArray[np.void]) -> str:
        return "".join(
            f'{{"sample": {sample}, "domain": {names[domain]}, "epoch": {epoch}, "row": {row}}}\n'
            for sample, domain, epoch, row in samples.tolist()
        )

    return lines


def table_lines(plan: Plan, stop: int) -> tuple[str, Lines]:
    """The heading, and what makes lines of samples before `stop` below it."""
    most_rows = max(order.row_count for order in plan.orders)
    asked = (plan.asked(0, stop) * stop).tolist()  # quicker than what is delivered, and never far from it
    most_epochs = max(1 + int(epochs_of(order, int(count))) for order, count in zip(plan.orders, asked, strict=True))
    by_sample, by_row = max(len("sample"), len(str(stop - 1))), max(len("row"), len(str(most_rows - 1)))
    by_epoch, by_domain = max(len("epoch"), len(str(most_epochs))), max(len("domain"), *map(len, plan.domains))

    def lines(samples: NDArray[np.void]) -> str:
        return "".join(
            f"{sample:>{by_sample}}  {plan.domains[domain]:<{by_domain}}  {epoch:>{by_epoch}}  {row:>{by_row}}\n"
            for sample, domain, epoch, row in samples.tolist()
        )

    heading = f"{'sample':>{by_sample}}  {'domain':<{by_domain}}  {'epoch':>{by_epoch}}  {'row':>{by_row}}"
    return heading, lines
