"""Lines and words of a text of any length, one after the other: a list of all words takes ten times its text."""

import re
from collections.abc import Iterator

PIECE_CHARACTERS = 1 << 20
# What may end a sentence, in the scripts whose words are parted by spaces and in some others.
ENDS = tuple(".!?\"'”’»…。！？」』】।॥؟۔։።")
_SPACE = re.compile(r"\s")


def lines(text: str) -> Iterator[str]:
    """The lines that are not blank, without white space at their ends."""
    start = 0
    while start < len(text):
        newline = text.find("\n", start + PIECE_CHARACTERS)
        stop = len(text) if newline < 0 else newline
        yield from filter(None, map(str.strip, text[start:stop].split("\n")))
        start = stop + 1


def words(text: str) -> Iterator[list[str]]:
    """The words, which are what white space parts, in lists of some 100,000."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        space = _SPACE.search(text, start + PIECE_CHARACTERS)
        stop = space.end() if space else len(text)
        yield text[start:stop].split()
        start = stop
    yield text[start:].split()


def repeated(parts: Iterator[str]) -> tuple[float, float]:
    """Fractions of the parts, and of their characters, that stand in parts seen before."""
    seen: set[str] = set()
    count = again = characters = characters_again = 0
    for part in parts:
        count += 1
        characters += len(part)
        if part in seen:
            again += 1
            characters_again += len(part)
        else:
            seen.add(part)
    return again / max(count, 1), characters_again / max(characters, 1)
