"""Concatenate and split, as arithmetic: a split is one stream of tokens, in which every document has an offset.

Sample s is the stream's tokens [s * length, (s + 1) * length), and a shard is a run of samples. So which tokens a shard
holds follows from offsets alone: any task may cut any document into pieces, in any order, and no remainder is carried
from one task to the next.
"""

from collections.abc import Iterable, Iterator

import numpy as np


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
    pieces: Iterable[tuple[int, np.ndarray]], first: int, length: int, end_of_text: int
) -> tuple[np.ndarray, int]:
    """The samples of one shard, [samples, length], and how many tokens of padding end the last one.

    `pieces` are (offset in the stream, tokens) in the stream's order; `first` is the shard's first offset. Padding is
    end-of-text; since no document is empty, an end-of-text that follows another is always padding.
    """
    offset, parts = first, []
    for start, tokens in pieces:
        assert start == offset, f"a gap in the stream: the piece at {start} should begin at {offset}"
        parts.append(tokens)
        offset += len(tokens)
    padding = (first - offset) % length
    parts.append(np.full(padding, end_of_text, dtype=parts[0].dtype))
    return np.concatenate(parts).reshape(-1, length), padding


def targets(samples: np.ndarray, padding: int) -> np.ndarray:
    """What a model is trained to predict: every token but each sample's first and the padding, flattened."""
    is_target = np.ones(samples.shape, dtype=bool)
    is_target[:, 0] = False
    flat, mask = samples.ravel(), is_target.ravel()
    end = len(flat) - padding
    return flat[:end][mask[:end]]
