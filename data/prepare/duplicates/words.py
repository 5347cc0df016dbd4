"""Texts as the words that duplicates are told by, and hashes of their n-grams, for a whole batch at a time.

A word is a run of letters, marks and digits in lower case; punctuation and white space only part words. Scripts that
write no spaces (Chinese, Japanese, Thai, ...) have one word a character. Equal on every machine: nothing is seeded by
the process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial over a window's words; odd, so that no word is lost in it
# Longer texts are read in parts, and batches in groups, so that a task's memory does not grow with either. An n-gram
# that crosses the end of a part is not seen: n - 1 of a million.
PART_CHARACTERS = 1 << 20
_ASCII = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of some texts, one text after the other."""

    hashes: np.ndarray  # [n-grams], uint64
    counts: np.ndarray  # [texts], how many of them each text has
    first_words: np.ndarray  # [n-grams], where each begins in `words`
    words: pa.StringArray  # [words]

    def spell(self, ngram: int, length: int) -> str:
        """One n-gram in plain words."""
        return " ".join(self.words.slice(int(self.first_words[ngram]), length).to_pylist())


def parts(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Groups of about PART_CHARACTERS: (which text each part is of, the parts), in order."""
    numbers: list[int] = []
    group: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for start in range(0, len(text), PART_CHARACTERS):
            part = text[start : start + PART_CHARACTERS]
            if size + len(part) > PART_CHARACTERS and group:
                yield numbers, group
                numbers, group, size = [], [], 0
            numbers.append(number)
            group.append(part)
            size += len(part)
    if group:
        yield numbers, group


def ngrams(texts: list[str], n: int, short: bool) -> Ngrams:
    """Every run of `n` words of every text.

    `short`: a text of fewer words, but one at least, has one n-gram of all of them; otherwise it has none.
    """
    words, counts = _words(texts)
    total = len(words)
    # n - 1 empty words after each text, so that no window reaches into the next one.
    padded = np.zeros(total + (n - 1) * len(texts), dtype=np.uint64)
    begins = np.cumsum(counts) - counts
    padded[np.arange(total) + np.repeat(np.arange(len(texts)) * (n - 1), counts)] = _hashed(words)
    windows = np.maximum(counts - (n - 1), np.minimum(counts, 1) if short else 0)
    rank = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
    first_words = rank + np.repeat(begins, windows)
    places = first_words + np.repeat(np.arange(len(texts)) * (n - 1), windows)
    return Ngrams(mix(_rolled(padded, n)[places]), windows, first_words, words)


def mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finalizer (Steele et al. 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _words(texts: list[str]) -> tuple[pa.StringArray, np.ndarray]:
    """All words, and how many each text has: [texts]."""
    plain = pc.ascii_trim(pa.array(_spaced(texts), pa.string()), " ")
    split = pc.ascii_split_whitespace(pc.if_else(pc.equal(plain, ""), None, plain))
    counts = pc.fill_null(pc.list_value_length(split), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return pc.list_flatten(split), counts


def _spaced(texts: list[str]) -> list[str]:
    """In lower case, with spaces for all that is no letter, mark or digit."""
    spaced = [text.translate(_ASCII) for text in texts]  # a table is a tenth of the work of expressions over Unicode
    others = [place for place, text in enumerate(texts) if not text.isascii()]
    apart = pc.replace_substring_regex(pa.array([texts[place] for place in others], pa.string()), _UNSPACED, r" \0 ")
    plain = pc.replace_substring_regex(pc.utf8_lower(apart), r"[^\p{L}\p{M}\p{N}]+", " ")
    for place, text in zip(others, plain.to_pylist(), strict=True):
        spaced[place] = text
    return spaced


def _hashed(words: pa.StringArray) -> np.ndarray:
    """A 64-bit hash of every word, none of them 0. A batch has far fewer different words than words."""
    distinct = words.dictionary_encode()
    hashes = [xxhash.xxh3_64_intdigest(word) | 1 for word in distinct.dictionary.to_pylist()]
    return np.array(hashes, dtype=np.uint64)[distinct.indices.to_numpy(zero_copy_only=False)]


def _rolled(words: np.ndarray, n: int) -> np.ndarray:
    """A polynomial over each window of `n` words: [words - n + 1]."""
    size = max(len(words) - n + 1, 0)
    total = words[:size].copy()
    for shift in range(1, n):
        total *= BASE
        total += words[shift : shift + size]
    return total
