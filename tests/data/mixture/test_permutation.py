"""The fixed mixer and the permutations made of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.mixture.permutation import bit_length, derive_key, mix, permute, shuffled


def test_mixer_is_splitmix64() -> None:
    """The first outputs of the reference generator from state 0 (Vigna, splitmix64.c)."""
    states = (np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert [hex(value) for value in mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_takes_every_place_once(count: int, key: int) -> None:
    places = np.arange(count)
    moved = permute(places, np.full(count, count), np.full(count, key, np.uint64))
    assert sorted(moved) == list(places)


def test_permute_reaches_every_order_of_four_about_equally() -> None:
    orders: dict[tuple, int] = {}
    for key in range(24 * 200):
        mixed = np.full(4, derive_key("test", key), np.uint64)
        order = tuple(permute(np.arange(4), np.full(4, 4), mixed))
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 24
    assert min(orders.values()) > 100
    assert max(orders.values()) < 350


@pytest.mark.parametrize("count", [50, 1000, 131072])
def test_permute_leaves_no_rank_correlation(count: int) -> None:
    correlations = []
    for seed in range(20):
        key = np.full(count, derive_key("rank", seed), np.uint64)
        moved = permute(np.arange(count), np.full(count, count), key)
        correlations.append(np.corrcoef(np.arange(count), moved)[0, 1])
    assert abs(np.mean(correlations)) < 4 / np.sqrt(20 * count)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)


def test_shuffled_is_fixed_for_ever() -> None:
    assert shuffled(8, derive_key("golden")).tolist() == GOLDEN_ORDER


def test_bit_length() -> None:
    values = np.array([1, 2, 3, 4, 255, 256, 2**40 - 1, 2**40])
    assert bit_length(values).tolist() == [int(value).bit_length() for value in values]


GOLDEN_ORDER = [3, 4, 1, 5, 0, 7, 6, 2]
