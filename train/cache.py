"""How much of a remote dataset may lie on a machine's disk at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

from data.manifest import Manifest, ShardRecord
from data.mixture.order import SHARDS_PER_GROUP
from train.schema import Problem

UNITS = {"b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
FORM = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)\s*(?P<unit>b|kb|mb|gb|tb)", re.IGNORECASE)

# Streaming itself wants room for so many of the largest shard, and for the indexes.
SMALLEST_CACHE = 4
INDEX_ENTRY_BYTES = 1024  # an entry has some 400


def parse_size(text: str) -> int:
    """Bytes of a size such as `200gb`.

    Raises:
        ValueError: with one sentence that says which forms are read.
    """
    match = FORM.fullmatch(text.strip())
    if match is None or float(match["number"]) == 0:
        raise ValueError(f"expected a size such as 200gb or 1.5tb, found {text!r}")
    return int(float(match["number"]) * UNITS[match["unit"].lower()])


def size_in_words(size: int) -> str:
    """Bytes in two digits or more, rounded up: `12gb`."""
    unit = next((unit for unit in reversed(UNITS) if size >= 10 * UNITS[unit]), "b")
    return f"{math.ceil(size / UNITS[unit])}{unit}"


def cache_limit_problems(limit: str | None, remote: str | None) -> Iterator[Problem]:
    if limit is None:
        return
    try:
        parse_size(limit)
    except ValueError as error:
        yield "cache_limit", str(error)
        return
    if remote is None:
        yield "cache_limit", "needs dataset.remote: what lies in dataset.path is the only copy, and stays"


def cache_problems(limit: int | None, manifest: Manifest, domains: Iterable[str]) -> Iterator[Problem]:
    """A limit that the shards in use at once would not fit under: every shard would be fetched again and again."""
    if limit is not None and limit < (needed := bytes_in_use(manifest, domains)):
        expected = f"expected {size_in_words(needed)} at least, for the shards that are in use at once"
        yield "dataset.cache_limit", f"{expected}, found {size_in_words(limit)}"


def bytes_in_use(manifest: Manifest, domains: Iterable[str]) -> int:
    """The most that the training shards in use at once may take: two groups of every domain, and the indexes."""
    total, largest, entries = 0, 0, 0
    for domain in domains:
        shards = manifest.domains[domain].splits["train"].shards
        sizes = sorted((bytes_of(shard, manifest) for shard in shards), reverse=True)
        total += sum(sizes[: 2 * SHARDS_PER_GROUP])
        largest = max(largest, *sizes, 0)
        entries += len(shards)
    return max(total, SMALLEST_CACHE * largest) + entries * INDEX_ENTRY_BYTES


def bytes_of(shard: ShardRecord, manifest: Manifest) -> int:
    """A shard on disk; while a compressed one is unpacked, both of its files are there."""
    if shard.file.endswith(".mds"):
        return shard.bytes
    sample_bytes = manifest.max_seq_len * np.dtype(manifest.token_dtype).itemsize + 4
    return shard.bytes + shard.samples * sample_bytes
