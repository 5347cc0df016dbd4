"""Which shard holds a sample: as Streaming's own Spanner says it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming.base.spanner import Spanner

from data.mixture.spans import ShardSpans


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 16))
def test_as_streamings_own(sizes: list[int], span_size: int) -> None:
    ours, theirs = ShardSpans(np.array(sizes)), Spanner(np.array(sizes), span_size)
    every = np.arange(sum(sizes))
    shards, rows = ours.locate(every)
    expected = [theirs[number] for number in every.tolist()]
    assert [ours[number] for number in every.tolist()] == expected
    assert list(zip(shards.tolist(), rows.tolist(), strict=True)) == expected


def test_empty_shards_hold_nothing() -> None:
    assert [ShardSpans(np.array([0, 2, 0, 0, 1]))[number] for number in range(3)] == [(1, 0), (1, 1), (4, 0)]


def test_three_billion_samples() -> None:
    spans = ShardSpans(np.full(180_000, 16_389))
    assert spans[2_950_019_999] == (179_999, 16_388)


@pytest.mark.parametrize("number", [-1, 7])
def test_there_is_no_such_sample(number: int) -> None:
    with pytest.raises(IndexError, match="there are 7"):
        ShardSpans(np.array([3, 4]))[number]
