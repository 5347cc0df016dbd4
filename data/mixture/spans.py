"""Which shard holds a sample, found by binary search, and how Streaming is given it.

Streaming's own `Spanner` keeps a table of all samples while it is built: 8 bytes for each of 3 billion. And reading an
index, Streaming copies every shard's entry deeply although it only drops two keys of it.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base import dataset as dataset_module
from streaming.base.format.mds import reader as reader_module


class ShardSpans:
    """Stands in for `streaming.base.spanner.Spanner`: memory and time O(shards) to build, O(log shards) to ask.

    Args:
        shard_sizes: [shards] samples of each shard.
    """

    def __init__(self, shard_sizes: NDArray[np.int64]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(shard_sizes, dtype=np.int64)])
        self._starts = self.starts.tolist()  # for one sample at a time: bisect is faster on a list than on an array

    def __getitem__(self, sample_id: int) -> tuple[int, int]:
        """(shard, row inside the shard) of one sample."""
        if not 0 <= sample_id < self._starts[-1]:
            raise IndexError(f"no sample {sample_id}: there are {self._starts[-1]}")
        shard = bisect_right(self._starts, sample_id) - 1
        return shard, sample_id - self._starts[shard]

    def locate(self, sample_ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(shard, row inside the shard) of many samples, both of the shape of `sample_ids`."""
        shards = np.searchsorted(self.starts, sample_ids, side="right") - 1
        return shards, sample_ids - self.starts[shards]


@contextmanager
def quick_opening() -> Iterator[None]:
    """While a StreamingDataset is made: its `Spanner` is a ShardSpans, and index entries are copied shallowly."""
    with replaced(dataset_module, "Spanner", ShardSpans), replaced(reader_module, "deepcopy", copy.copy):
        yield


@contextmanager
def replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
