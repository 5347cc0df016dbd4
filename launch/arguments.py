"""What commands share of their arguments: a recipe with overrides, and numbers. argparse says the sentence of a wrong
one and ends with 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", int, float)

OVERRIDES = """\
Any key of the recipe can be set after it:
  {command} {recipe} {example}
Exit codes: 0 done, 2 your mistake (one sentence on stderr says what and where), 1 ours, or a run stopped at its loss,
130 and 143 stopped by Ctrl-C and SIGTERM.
"""


def add_command(
    commands: argparse._SubParsersAction, name: str, summary: str, recipe: str, options: str = ""
) -> argparse.ArgumentParser:
    """`options`: those that the command can't do without, as its example has them."""
    example = "max_seq_len=512" if name == "prepare" else "max_duration=200ba run_name=short"
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.epilog = OVERRIDES.format(command=command.prog + options, recipe=recipe, example=example)
    command.add_argument("recipe", metavar="RECIPE", type=Path, help=f"a YAML file, such as {recipe}")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the recipe")
    return command


def at_least_one(text: str) -> int:
    return number(int, text, lambda value: value >= 1, "a whole number of at least 1")


def at_least_none(text: str) -> int:
    return number(int, text, lambda value: value >= 0, "a whole number of at least 0")


def seed(text: str) -> int:
    return number(int, text, lambda value: 0 <= value < 2**63, "a whole number from 0 to 2^63 - 1")


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
