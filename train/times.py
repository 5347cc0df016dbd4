"""Times in a recipe, and what is said of those that can't be read."""

from __future__ import annotations

from collections.abc import Iterator

from data.mixture.times import TrainingTime, parse_time
from train.schema import Problem

INTERVAL_UNITS = "500ba, 2_000sp or 10Mtok"


def time_problems(key: str, text: str, *, positive: bool = False, dur: bool = True) -> Iterator[Problem]:
    try:
        time: TrainingTime = parse_time(text)
    except ValueError as error:
        yield key, str(error) if dur else f"expected a time such as {INTERVAL_UNITS}, found {text}"
        return
    if positive and time.value <= 0:
        yield key, f"expected more than nothing, found {text}"
    if not dur and time.unit == "dur":
        yield key, f"expected a time such as {INTERVAL_UNITS}, found {text}"


def readable_time(text: str) -> bool:
    return not list(time_problems("", text))
