"""Shards mapped into memory: read as Streaming reads them, a bounded number at a time, let go once they are evicted."""

from pathlib import Path

import numpy as np
import psutil
import pytest
from streaming import StreamingDataset
from streaming.base.format import Reader

from data.mixture.open_shards import OpenShards, SampleLayout, map_shard

from mds_shards import LENGTH, tokens_of, write_domains

LAYOUT = SampleLayout(np.dtype(np.uint16), LENGTH)


@pytest.fixture
def shards(tmp_path: Path) -> list[Reader]:
    [folder] = write_domains(tmp_path, {"web": 200}, rows_per_shard=20)
    return StreamingDataset(local=str(folder), batch_size=1).shards


def path_of(shard: Reader) -> Path:
    return Path(shard.dirname) / shard.file_pairs[0][0].basename


def mapped_files(folder: Path) -> set[str]:
    """Names of the files in `folder` that this process has in memory, deleted ones as well."""
    maps = psutil.Process().memory_maps(grouped=False)
    return {Path(entry.path.removesuffix(" (deleted)")).name for entry in maps if entry.path.startswith(str(folder))}


def test_every_sample_lies_where_it_is_looked_for(shards: list[Reader]) -> None:
    opened = OpenShards(shards, LAYOUT, limit=3)
    first = 0
    for number, shard in enumerate(shards):
        mapped = opened.get(number)
        assert mapped is not None
        rows = np.arange(first, first + len(shard))
        expected = tokens_of(np.zeros_like(rows), rows)
        found = [np.frombuffer(mapped.content[end - LAYOUT.bytes : end], np.uint16) for end in mapped.ends]
        assert (np.stack(found) == expected).all()
        first += len(shard)
    assert first == 200


def test_no_more_than_the_limit_are_open(shards: list[Reader], tmp_path: Path) -> None:
    opened = OpenShards(shards, LAYOUT, limit=3)
    for number in (0, 1, 2, 0, 3, 0, 4):
        opened.get(number)
    assert mapped_files(tmp_path) == {path_of(shards[number]).name for number in (0, 3, 4)}


def test_evicted_shards_are_let_go_when_another_is_opened(shards: list[Reader], tmp_path: Path) -> None:
    opened = OpenShards(shards, LAYOUT, limit=8)
    for number in (0, 1, 2):
        opened.get(number)
    shards[0].evict()
    replaced = path_of(shards[1])
    replaced.with_suffix(".new").write_bytes(replaced.read_bytes())
    replaced.with_suffix(".new").replace(replaced)
    assert opened.get(0) is not None  # what was open can still be read
    opened.get(3)
    assert mapped_files(tmp_path) == {path_of(shards[number]).name for number in (2, 3)}
    assert opened.get(0) is None
    assert opened.get(1) is not None


@pytest.mark.parametrize("spoil", ["missing", "short", "long", "count", "offset"])
def test_a_file_that_is_not_as_expected_is_left_to_streaming(shards: list[Reader], spoil: str) -> None:
    path = path_of(shards[0])
    content = bytearray(path.read_bytes())
    if spoil == "missing":
        path.unlink()
    else:
        if spoil == "short":
            del content[-1:]
        elif spoil == "long":
            content += b"x"
        else:
            content[0 if spoil == "count" else 41] ^= 1  # by 256 bytes: more than a sample has
        path.write_bytes(content)
    assert map_shard(shards[0], LAYOUT) is None
    assert map_shard(shards[1], LAYOUT) is not None
