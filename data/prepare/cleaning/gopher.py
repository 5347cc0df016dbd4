"""The rules of MassiveText (Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training
Gopher", arXiv 2112.11446, appendix A.1.1), for languages whose words are parted by spaces.

The paper leaves some terms open. Here a word is what white space parts; a duplicate is every occurrence but the first,
as in FineWeb, which runs the same thresholds; characters are those of words or lines, without white space between.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from data.prepare.cleaning.pieces import lines, repeated, words
from data.prepare.cleaning.verdict import Drop, Problem, fractions, outside

BULLETS = tuple("•‣◦▪■●⁃-–*")
ELLIPSES = ("...", "…")
_LETTER = re.compile(r"[^\W\d_]")
# Of ASCII: without what is neither a letter nor white space, and so without words that have no letter.
_WORDS_OF_LETTERS = {code: None for code in range(128) if not (chr(code).isalpha() or chr(code).isspace())}
_SOME = 1000  # words
_PARAGRAPHS = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass
class GopherQuality:
    """Drops what does not read like prose: by words, symbols, bullets, ellipses and stop words."""

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3
    max_mean_word_length: float = 10
    max_symbol_ratio: float = 0.1  # of `#` to words, and of ellipses to words
    max_bullet_lines: float = 0.9  # fractions of the lines
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8  # fraction of the words that have a letter
    min_stop_words: int = 2  # different ones
    stop_words: list[str] = field(default_factory=lambda: ["the", "be", "to", "of", "and", "that", "have", "with"])

    source: ClassVar[str] = "Rae et al. 2021 (Gopher), A.1.1"

    def problems(self) -> Iterator[Problem]:
        yield from fractions(self, "max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words")
        if self.max_words < self.min_words:
            yield "max_words", f"expected at least min_words ({self.min_words:,})"
        if self.max_mean_word_length < self.min_mean_word_length:
            yield "max_mean_word_length", f"expected at least min_mean_word_length ({self.min_mean_word_length:g})"
        if self.min_stop_words > len(self.stop_words):
            yield "min_stop_words", f"expected at most as many as there are stop_words ({len(self.stop_words)})"

    def apply(self, text: str) -> str | Drop:
        return next(filter(None, self._faults(text)), text)

    def _faults(self, text: str) -> Iterator[Drop | None]:
        ascii_only = text.isascii()
        count = characters = 0
        alphabetic = len(text.translate(_WORDS_OF_LETTERS).split()) if ascii_only else 0
        stop_words, found = set(self.stop_words), set[str]()
        for some in words(text):
            count += len(some)
            yield outside("words", count, high=self.max_words)
            characters += sum(map(len, some))
            alphabetic += 0 if ascii_only else sum(1 for word in some if word.isalpha() or _LETTER.search(word))
            found |= _first_of(stop_words, some, self.min_stop_words - len(found))
        yield outside("words", count, low=self.min_words)
        yield outside("mean word length", characters / max(count, 1), self.min_mean_word_length)
        yield outside("mean word length", characters / max(count, 1), high=self.max_mean_word_length)
        yield outside("# to words", text.count("#") / max(count, 1), high=self.max_symbol_ratio)
        ellipses = text.count("...") + text.count("…")
        yield outside("ellipses to words", ellipses / max(count, 1), high=self.max_symbol_ratio)
        number = bulleted = trailing = 0
        for line in lines(text):
            number += 1
            bulleted += line.startswith(BULLETS)
            trailing += line.endswith(ELLIPSES)
        yield outside("bullet lines", bulleted / max(number, 1), high=self.max_bullet_lines)
        yield outside("ellipsis lines", trailing / max(number, 1), high=self.max_ellipsis_lines)
        yield outside("alphabetic words", alphabetic / max(count, 1), self.min_alphabetic_words)
        yield outside("stop words", len(found), self.min_stop_words)


@dataclass
class GopherRepetition:
    """Drops what repeats itself: lines, paragraphs, the most frequent n-gram, duplicate n-grams. Takes memory of
    about ten times a text: `gopher_quality` or `characters` before it keeps giants away.
    """

    max_duplicate_lines: float = 0.3  # fractions of the lines and paragraphs, then of their characters
    max_duplicate_paragraphs: float = 0.3
    max_duplicate_line_characters: float = 0.2
    max_duplicate_paragraph_characters: float = 0.2
    # Words of the n-gram -> the largest fraction of the characters that may stand in it.
    top_ngrams: dict[int, float] = field(default_factory=lambda: {2: 0.2, 3: 0.18, 4: 0.16})
    duplicate_ngrams: dict[int, float] = field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )

    source: ClassVar[str] = "Rae et al. 2021 (Gopher), table A1"

    def problems(self) -> Iterator[Problem]:
        yield from fractions(self, "max_duplicate_lines", "max_duplicate_paragraphs")
        yield from fractions(self, "max_duplicate_line_characters", "max_duplicate_paragraph_characters")
        for key in ("top_ngrams", "duplicate_ngrams"):
            for length, fraction in getattr(self, key).items():
                if type(length) is not int or not 2 <= length <= 100 or not 0 <= fraction <= 1:
                    yield key, "expected numbers of words (2 to 100), each with a fraction from 0 to 1"

    def apply(self, text: str) -> str | Drop:
        return next(filter(None, self._faults(text)), text)

    def _faults(self, text: str) -> Iterator[Drop | None]:
        again, characters = repeated(lines(text))
        yield outside("duplicate lines", again, high=self.max_duplicate_lines)
        yield outside("characters in duplicate lines", characters, high=self.max_duplicate_line_characters)
        again, characters = repeated(filter(None, map(str.strip, _PARAGRAPHS.split(text))))
        yield outside("duplicate paragraphs", again, high=self.max_duplicate_paragraphs)
        yield outside("characters in duplicate paragraphs", characters, high=self.max_duplicate_paragraph_characters)
        ids, sizes = _number(text)
        for length, places, grams in _repeated_ngrams(ids, max([0, *self.top_ngrams, *self.duplicate_ngrams])):
            if (limit := self.top_ngrams.get(length)) is not None:
                fraction = _covered(_top(places, grams, length, sizes), length, sizes)
                yield outside(f"characters in the top {length}-gram", fraction, high=limit)
            if (limit := self.duplicate_ngrams.get(length)) is not None:
                fraction = _covered(places[_again(grams)], length, sizes)
                yield outside(f"characters in duplicate {length}-grams", fraction, high=limit)


def _first_of(wanted: set[str], words: list[str], enough: int) -> set[str]:
    """Those of the wanted words, in lower case, that come first; what follows `enough` of them may be left out."""
    found: set[str] = set()
    for start in range(0, len(words), _SOME):
        if len(found) >= enough:
            break
        found |= wanted.intersection(map(str.lower, words[start : start + _SOME]))
    return found


def _number(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Each word as a number, equal words as equal numbers, and its characters: both [words], int64."""
    known: defaultdict[str, int] = defaultdict()
    known.default_factory = known.__len__
    ids, sizes = array("q"), array("q")
    for some in words(text):
        ids.extend(map(known.__getitem__, some))
        sizes.extend(map(len, some))
    return np.frombuffer(ids, np.int64), np.frombuffer(sizes, np.int64)


def _repeated_ngrams(ids: np.ndarray, longest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(n, the words at which an n-gram begins that is there twice, these n-grams as numbers) for n from 2, as long as
    there is any.

    An n-gram is the (n-1)-gram at its place and one more word: exact, where hashes would be nearly so. What is there
    once as an (n-1)-gram is there once as an n-gram, so it is looked at no more.
    """
    places, grams = np.arange(len(ids)), ids
    vocabulary = int(ids.max(initial=0)) + 1
    for length in range(2, longest + 1):
        inside = np.searchsorted(places, len(ids) - length, side="right")
        places, grams = places[:inside], grams[:inside]
        # Numbered by a hash table, in the order of their first places: sorting them would not be linear.
        pairs = pa.array(grams * vocabulary + ids[places + length - 1])
        grams = pairs.dictionary_encode().indices.to_numpy().astype(np.int64)
        repeated = np.bincount(grams)[grams] > 1 if len(grams) else np.empty(0, bool)
        places, grams = places[repeated], grams[repeated]
        if not len(places):
            return
        yield length, places, grams


def _again(grams: np.ndarray) -> np.ndarray:
    """Which of the n-grams, numbered in the order of their first places, stood before: bool [n-grams]."""
    return grams <= np.maximum.accumulate(np.concatenate([[-1], grams[:-1]]))


def _top(places: np.ndarray, grams: np.ndarray, length: int, sizes: np.ndarray) -> np.ndarray:
    """The places of the most frequent n-gram; of equally frequent ones, of the longest."""
    counts = np.bincount(grams)[grams]
    until = np.concatenate([[0], np.cumsum(sizes)])
    longest = np.argmax(np.where(counts == counts.max(), until[places + length] - until[places], -1))
    return places[grams == grams[longest]]


def _covered(places: np.ndarray, length: int, sizes: np.ndarray) -> float:
    """The fraction of the characters in n-grams that begin at these words, each counted once."""
    change = np.zeros(len(sizes) + 1, np.int64)
    change[places] += 1
    change[places + length] -= 1
    return float(sizes[np.cumsum(change[:-1]) > 0].sum() / sizes.sum())
