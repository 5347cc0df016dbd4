"""Numbers among a command's options. argparse says the sentence and ends with 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

N = TypeVar("N", int, float)


def at_least_one(text: str) -> int:
    return number(int, text, lambda value: value >= 1, "a whole number of at least 1")


def at_least_none(text: str) -> int:
    return number(int, text, lambda value: value >= 0, "a whole number of at least 0")


def port(text: str) -> int:
    return number(int, text, lambda value: 0 <= value < 2**16, "a port from 0 to 65535")


def temperature(text: str) -> float:
    return number(float, text, lambda value: 0 <= value < math.inf, "a number of at least 0")


def probability(text: str) -> float:
    return number(float, text, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def number(kind: type[N], text: str, fits: Callable[[N], bool], expected: str) -> N:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return value
