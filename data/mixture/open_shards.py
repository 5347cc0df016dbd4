"""The samples of shards that lie on disk, mapped into memory, so that a sample is one copy away.

A raw MDS file is a count, a table of offsets, a description, and the samples back to back. A sample's columns stand in
the order of their names, so its tokens are its end: what may stand before them says where its documents begin.
"""

from __future__ import annotations

import mmap
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from streaming.base.format import Reader
from streaming.base.format.mds import MDSReader

from data.errors import DataError

COLUMNS = (["document_offsets", "tokens"], ["tokens"])  # one or the other; only tokens are read
SIZE_BYTES = 4  # before the columns of a sample: how long the first one is, which has no fixed length
ENCODING = re.compile(r"ndarray:(?P<dtype>uint16|uint32|int32|int64):(?P<length>[0-9]+)")


@dataclass(frozen=True)
class SampleLayout:
    """How a sample is stored: `length` tokens of type `dtype`."""

    dtype: np.dtype[Any]
    length: int

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * self.length

    @classmethod
    def of(cls, shards: Sequence[Reader]) -> SampleLayout:
        """The one layout of all shards.

        Raises:
            DataError: there are several, or other columns, or tokens of no fixed length.
        """
        encodings = {
            shard.column_encodings[-1] if isinstance(shard, MDSReader) and shard.column_names in COLUMNS else ""
            for shard in shards
        }
        match = ENCODING.fullmatch(encodings.pop()) if len(encodings) == 1 else None
        if match is None:
            raise DataError(
                f"{shards[0].dirname}: expected shards with a column, tokens, of one type and length in all domains, "
                "such as `brickyard prepare` writes"
            )
        return cls(np.dtype(match["dtype"]), int(match["length"]))


@dataclass(frozen=True)
class MappedShard:
    """A shard's file in memory. The file lives on while it is mapped, even if it has been deleted."""

    path: Path
    inode: int
    content: memoryview  # bytes
    ends: memoryview  # uint32: where in them each sample ends, and with it its tokens

    def is_current(self) -> bool:
        """Whether the file is still the one at its path: Streaming may have evicted it, and fetched it again."""
        try:
            return self.path.stat().st_ino == self.inode
        except OSError:
            return False


class OpenShards:
    """The shards that are in use, at most `limit` of them. Evicted ones are let go whenever another is opened."""

    def __init__(self, shards: Sequence[Reader], layout: SampleLayout, limit: int) -> None:
        self.shards = shards
        self.layout = layout
        self.limit = limit
        self._mapped: OrderedDict[int, MappedShard] = OrderedDict()

    def get(self, shard: int) -> MappedShard | None:
        """A shard in memory; None where its file is not there or not as expected."""
        mapped = self._mapped.get(shard)
        if mapped is not None:
            self._mapped.move_to_end(shard)
            return mapped
        opened = map_shard(self.shards[shard], self.layout)
        if opened is None:
            return None
        self._mapped = OrderedDict((number, old) for number, old in self._mapped.items() if old.is_current())
        while len(self._mapped) >= self.limit:
            self._mapped.popitem(last=False)
        self._mapped[shard] = opened
        return opened


def map_shard(shard: Reader, layout: SampleLayout) -> MappedShard | None:
    """Map a shard's raw file, if it is there and each of its samples has room for what the layout says."""
    assert isinstance(shard, MDSReader)
    path = Path(shard.dirname, shard.split, shard.raw_data.basename)
    header_bytes = 4 * (1 + shard.samples + 1)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != shard.raw_data.bytes or status.st_size < header_bytes:
                return None
            content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    except FileNotFoundError:
        return None
    header = np.frombuffer(content, np.uint32, 1 + shard.samples + 1)
    offsets = header[1:].astype(np.int64)
    least = layout.bytes + (0 if shard.column_names == ["tokens"] else SIZE_BYTES)
    if header[0] != shard.samples or offsets[0] < header_bytes or offsets[-1] != status.st_size:
        return None
    if (np.diff(offsets) < least).any():
        return None
    view = memoryview(content)
    return MappedShard(path, status.st_ino, view, view[8:header_bytes].cast("I"))
