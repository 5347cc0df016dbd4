"""What a cleaning step says of a text: another text, or why the document is dropped."""

from dataclasses import dataclass
from typing import Protocol

Problem = tuple[str, str]  # an option, and what was expected of it


@dataclass(frozen=True)
class Drop:
    """The document is dropped."""

    rule: str  # the same words for every document that breaks it: drops are counted by rule
    why: str  # with this document's number


@dataclass(frozen=True)
class InLanguage:
    """The text stays, and documents are counted by its language."""

    text: str
    language: str


class Step(Protocol):
    """A dataclass of options with one pure function. Texts are str without a rule on their length."""

    def apply(self, text: str) -> str | Drop | InLanguage: ...


def outside(rule: str, value: float, low: float | None = None, high: float | None = None) -> Drop | None:
    """A Drop if the value is below `low` or above `high`, both of which still pass."""
    if low is not None and value < low:
        return Drop(rule, f"{rule} {shown(value)}, below {shown(low)}")
    if high is not None and value > high:
        return Drop(rule, f"{rule} {shown(value)}, above {shown(high)}")
    return None


def shown(value: float) -> str:
    """A count in full, a fraction to four digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def fractions(step: object, *names: str) -> list[Problem]:
    """A problem for each of the options that is no number from 0 to 1; null is none."""
    wrong = [name for name in names if (value := getattr(step, name)) is not None and not 0 <= value <= 1]
    return [(name, "expected a number from 0 to 1") for name in wrong]
