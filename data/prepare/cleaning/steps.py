"""The steps that a recipe can name, and its list of them as objects."""

from collections.abc import Iterator
from typing import Any

from data.prepare.cleaning.code import CodeQuality
from data.prepare.cleaning.encoding import Mojibake, Unicode
from data.prepare.cleaning.gopher import GopherQuality, GopherRepetition
from data.prepare.cleaning.language import Language
from data.prepare.cleaning.length import Characters
from data.prepare.cleaning.pii import MaskPii
from data.prepare.cleaning.verdict import Problem, Step
from data.prepare.cleaning.web import C4, FineWebQuality

STEPS: dict[str, type] = {
    "mojibake": Mojibake,
    "unicode": Unicode,
    "characters": Characters,
    "language": Language,
    "gopher_quality": GopherQuality,
    "gopher_repetition": GopherRepetition,
    "c4": C4,
    "fineweb_quality": FineWebQuality,
    "code_quality": CodeQuality,
    "mask_pii": MaskPii,
}
DEFAULT = ("mojibake", "unicode")  # what is right for any kind of text; the rest is a choice by domain


def build(items: list[Any]) -> dict[str, Step]:
    """The steps of a recipe's list, in its order, by the names that counts go by: `unicode`, then `unicode_2`.

    An item is a name or {name: {option: value}}.
    """
    steps: dict[str, Step] = {}
    for item in items:
        name, options = _split(item)
        place = 1 + sum(type(step) is STEPS[name] for step in steps.values())
        steps[name if place == 1 else f"{name}_{place}"] = STEPS[name](**options)
    return steps


def problems(items: list[Any]) -> Iterator[Problem]:
    """What the steps say of their options: pairs of a key below the list, such as `[1].c4.min_sentences`, and why."""
    for number, (item, step) in enumerate(zip(items, build(items).values(), strict=True)):
        if hasattr(step, "problems"):
            for key, sentence in step.problems():
                yield f"[{number}].{_split(item)[0]}.{key}", sentence


def resolved(items: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    """The list with every default written out, for fingerprints."""
    return [(_split(item)[0], dict(vars(step))) for item, step in zip(items, build(items).values(), strict=True)]


def _split(item: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(item, str):
        return item, {}
    ((name, options),) = item.items()
    return name, options or {}
