"""Rules for pages of the web: C4's, and those that FineWeb added."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from data.prepare.cleaning.pieces import ENDS, lines, repeated
from data.prepare.cleaning.verdict import Drop, Problem, fractions, outside, shown

TERMINAL = (".", "!", "?", '"', "”")
_LOREM_IPSUM = re.compile("lorem ipsum", re.IGNORECASE)
_SCRIPT = re.compile("javascript", re.IGNORECASE)
_POLICY = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies", re.IGNORECASE)
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_LONG_WORD = re.compile(r"(?<!\S)\S{1001}")
# The look-behind lets a search begin only where a run of marks begins, so that a million dots are read once.
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?!\S)")


@dataclass
class C4:
    """Keeps the lines of a page that read like sentences, and drops pages with `{`, lorem ipsum or too few
    sentences. Lines go that don't end like a sentence, have few words or a word over 1,000 characters, or speak of
    javascript, cookies or policies; Wikipedia's citation marks go.
    """

    terminal_punctuation: bool = True  # a line ends in . ! ? or a quotation mark, and not in an ellipsis
    min_words_per_line: int = 5
    min_sentences: int = 3
    javascript_lines: bool = True  # true: the rule is applied
    policy_lines: bool = True
    citations: bool = True
    lorem_ipsum: bool = True
    curly_brackets: bool = True

    source: ClassVar[str] = "Raffel et al. 2020 (C4), 2.2"

    def problems(self) -> Iterator[Problem]:
        for key in ("min_words_per_line", "min_sentences"):
            if getattr(self, key) < 0:
                yield key, "expected 0 or more"

    def apply(self, text: str) -> str | Drop:
        if self.lorem_ipsum and (found := _LOREM_IPSUM.search(text)):
            return Drop("lorem ipsum", f"lorem ipsum at character {found.start():,}")
        if self.curly_brackets and (place := text.find("{")) >= 0:
            return Drop("curly bracket", f"{{ at character {place:,}")
        kept = [line for line in map(self._line, lines(text)) if line]
        number = sum(_sentences(line) for line in kept)
        return outside("sentences", number, self.min_sentences) or "\n".join(kept)

    def _line(self, line: str) -> str | None:
        """The line without citation marks, or None where it is to go."""
        if _LONG_WORD.search(line):
            return None
        while self.citations and (shorter := _CITATION.sub("", line).strip()) != line:
            line = shorter  # marks may be nested, but no deeper than a word is long
        return line if self._reads_like_a_sentence(line) else None

    def _reads_like_a_sentence(self, line: str) -> bool:
        return (
            not (self.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith("...")))
            and len(line.split()) >= self.min_words_per_line
            and not _LONG_WORD.search(line)
            and not (self.javascript_lines and _SCRIPT.search(line))
            and not (self.policy_lines and _POLICY.search(line))
        )


@dataclass
class FineWebQuality:
    """Drops lists, menus and boilerplate: by lines that end in punctuation, repeated lines, short lines."""

    min_punctuated_lines: float | None = 0.12  # fraction of the lines: at it, or below, a page goes; null: no rule
    max_duplicate_line_characters: float | None = 0.1  # fraction of the characters: at it, or above
    max_short_lines: float | None = 0.67  # fraction of the lines: at it, or above
    short_line_characters: int = 30  # a line with fewer is short

    source: ClassVar[str] = "Penedo et al. 2024 (FineWeb), 3.6"

    def problems(self) -> Iterator[Problem]:
        yield from fractions(self, "min_punctuated_lines", "max_duplicate_line_characters", "max_short_lines")
        if self.short_line_characters < 1:
            yield "short_line_characters", "expected at least 1"

    def apply(self, text: str) -> str | Drop:
        return next(filter(None, self._faults(text)), text)

    def _faults(self, text: str) -> Iterator[Drop | None]:
        number = punctuated = short = 0
        for line in lines(text):
            number += 1
            punctuated += line.endswith(ENDS)
            short += len(line) < self.short_line_characters
        least, ratio = self.min_punctuated_lines, punctuated / max(number, 1)
        if least is not None and ratio <= least:
            yield Drop("punctuated lines", f"punctuated lines {shown(ratio)}, not above {shown(least)}")
        _, again = repeated(lines(text))
        yield _reached("characters in duplicate lines", again, self.max_duplicate_line_characters)
        yield _reached("short lines", short / max(number, 1), self.max_short_lines)


def _reached(rule: str, value: float, limit: float | None) -> Drop | None:
    """A Drop if the value is at the limit or above: `outside` lets it be at it."""
    if limit is None or value < limit:
        return None
    return Drop(rule, f"{rule} {shown(value)}, not below {shown(limit)}")


def _sentences(line: str) -> int:
    """Sentences that end in the line; one at least."""
    return max(1, sum(1 for _ in _SENTENCE_END.finditer(line)))
