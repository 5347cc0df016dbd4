"""The fixed mixer and the permutations made of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.mixture.permutation import Permutations, derive_key, mix, shuffled


def test_mixer_is_splitmix64() -> None:
    """The first outputs of the reference generator from state 0 (Vigna, splitmix64.c)."""
    states = (np.arange(3, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    assert [hex(value) for value in mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def permuted(count: int, key: int) -> NDArray[np.int64]:
    """Where one permutation of `count` numbers takes each of them."""
    same = Permutations.of(np.full(count, count), np.full(count, key, np.uint64))
    return same(np.arange(count))


@given(count=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_a_permutation_takes_every_place_once(count: int, key: int) -> None:
    assert sorted(permuted(count, key)) == list(range(count))


def test_every_order_of_four_comes_about_equally_often() -> None:
    orders: dict[tuple, int] = {}
    for key in range(24 * 200):
        order = tuple(permuted(4, derive_key("test", key)))
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 24
    assert min(orders.values()) > 100
    assert max(orders.values()) < 350


@pytest.mark.parametrize("count", [50, 1000, 131072])
def test_a_permutation_leaves_no_rank_correlation(count: int) -> None:
    correlations = [
        np.corrcoef(np.arange(count), permuted(count, derive_key("rank", seed)))[0, 1] for seed in range(20)
    ]
    assert abs(np.mean(correlations)) < 4 / np.sqrt(20 * count)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)


@pytest.mark.parametrize("count", [1000, 30011])
def test_neighbours_go_apart(count: int) -> None:
    """The distance of two neighbours after a permutation is on average a third of all, as for any two numbers."""
    distances = [np.abs(np.diff(permuted(count, derive_key("neighbours", seed)))).mean() / count for seed in range(20)]
    assert np.mean(distances) == pytest.approx(1 / 3, abs=0.01)


def test_shuffled_is_fixed_for_ever() -> None:
    assert shuffled(8, derive_key("golden")).tolist() == GOLDEN_ORDER


GOLDEN_ORDER = [3, 4, 1, 5, 0, 7, 6, 2]
