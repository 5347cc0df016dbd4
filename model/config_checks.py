"""What a value of the config may be; problems are (key, sentence)."""

from collections.abc import Iterator

Problem = tuple[str, str]


def expect_positive(key: str, value: float) -> Iterator[Problem]:
    if not 0 < value < float("inf"):
        yield key, f"expected a number above 0, found {value}"


def expect_probability(key: str, value: float) -> Iterator[Problem]:
    if not 0 <= value < 1:
        yield key, f"expected a probability from 0 up to, not including, 1, found {value}"


def prefixed(parent: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    for key, sentence in problems:
        yield f"{parent}.{key}", sentence
