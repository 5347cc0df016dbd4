"""Packing as arithmetic: a split is one stream of tokens, in which every document, or piece of one, has an offset.

Concatenated, documents follow one another and are cut where a sample ends; `best_fit.py` leaves gaps instead.

Sample s is the stream's tokens [s * length, (s + 1) * length), and a shard is a run of samples. So which tokens a shard
holds follows from offsets alone: any task may cut any document into pieces, in any order, and no remainder is carried
from one task to the next.
"""

from collections.abc import Iterable, Iterator

import numpy as np

COUNTED = 1 << 20  # ids at a time, about, which NumPy makes 64-bit for it


def cut(offset: int, count: int, shard_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Cuts `count` tokens that begin at `offset` of the stream at shard boundaries.

    Yields (shard, start, stop), start and stop counted from the document's first token.
    """
    start = 0
    while start < count:
        shard = (offset + start) // shard_tokens
        stop = min(count, (shard + 1) * shard_tokens - offset)
        yield shard, start, stop
        start = stop


def assemble(
    pieces: Iterable[tuple[int, bool, np.ndarray]], first: int, length: int, end_of_text: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The samples of one shard, which of their tokens are documents' (bool), and where one of these begins (bool);
    each [samples, length].

    `pieces` are (offset in the stream, whether a document or its piece begins there, tokens) in the stream's order;
    `first` is the shard's first offset. Where the stream has a gap, and after its end, is padding: end-of-text. Since
    no piece is an end-of-text alone, one that follows another is always padding.
    """
    placed = [(start - first, begins, tokens) for start, begins, tokens in pieces]
    end = placed[-1][0] + len(placed[-1][2])
    size = end + -end % length
    samples = np.full(size, end_of_text, dtype=placed[0][2].dtype)
    real, starts = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for start, begins, tokens in placed:
        here = slice(start, start + len(tokens))
        assert not real[here].any(), f"two pieces overlap at {first + start}"
        samples[here], real[here], starts[start] = tokens, True, begins
    return samples.reshape(-1, length), real.reshape(-1, length), starts.reshape(-1, length)


def document_offsets(real: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of one sample, where in it documents begin, and at last where their tokens end: padding follows from there on.

    So document i is [offsets[i], offsets[i + 1]), and what lies before the first offset goes on from the sample before.
    There is always one offset at least: Streaming stores no empty array.
    """
    return np.append(np.flatnonzero(starts), real.sum()).astype(offset_dtype(len(real)))


def offset_dtype(length: int) -> str:
    """The smallest unsigned integer type that holds every place in a sample, and its end."""
    return "uint16" if length < 1 << 16 else "uint32"


def targets(samples: np.ndarray, real: np.ndarray) -> np.ndarray:
    """What a model is trained to predict: every token but each sample's first and the padding, flattened."""
    return samples[:, 1:][real[:, 1:]]


def occurrences(samples: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different targets in ascending order, and how often each occurs."""
    total = np.zeros(int(samples.max()) + 1, np.int64)
    at_once = max(1, COUNTED // samples.shape[1])
    for start in range(0, len(samples), at_once):
        some = slice(start, start + at_once)
        total += np.bincount(targets(samples[some], real[some]), minlength=len(total))
    (found,) = np.nonzero(total)
    return found, total[found]
