"""Spikes are found, and what only looks like one is not: noise, a falling loss, a mixture that changes."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.spikes import Columns, RecentLosses, Spike, medians

DOMAINS = ("web", "code", "math")
USUAL = np.array([3.0, 1.2, 2.1])
WINDOW, HISTORY, THRESHOLD = 32, 16, 6.0
seeds = st.integers(0, 2**32 - 1)


def judge(recent: RecentLosses, loss_M: Columns, tokens_M: Columns) -> Spike | None:
    sums = loss_M * tokens_M
    return recent.judge(sums, tokens_M, sums.sum() / tokens_M.sum(), 1.0)


def remember(recent: RecentLosses, loss_M: Columns, tokens_M: Columns) -> None:
    recent.add(loss_M * tokens_M, tokens_M)


def some_losses(rng: np.random.Generator, noise: float) -> Columns:
    return USUAL + rng.normal(0, noise, len(USUAL))


def some_tokens(rng: np.random.Generator) -> Columns:
    return np.floor(1000 * rng.dirichlet(np.full(len(USUAL), 0.5))) + np.array([1.0, 0.0, 0.0])


def history(rng: np.random.Generator, noise: float, steps: int = WINDOW) -> RecentLosses:
    recent = RecentLosses(DOMAINS, WINDOW, HISTORY, THRESHOLD)
    for _ in range(steps):
        remember(recent, some_losses(rng, noise), some_tokens(rng))
    return recent


@settings(deadline=None, max_examples=50)
@given(seeds, st.floats(0, 0.2), st.floats(1, 1e6))
def test_a_loss_far_above_the_noise_stands_out_whatever_the_mixture(seed: int, noise: float, times: float) -> None:
    rng = np.random.default_rng(seed)
    recent = history(rng, noise)
    # As seen in any mixture: the noise of one domain is at most 4.5 of its spreads in so few draws.
    jump = times * (8 * noise + 0.05) * THRESHOLD
    spike = judge(recent, USUAL + jump, some_tokens(rng))
    assert spike is not None and spike.finite
    assert spike.expected is not None and spike.most is not None and spike.expected < spike.most < spike.loss
    assert "expected" in str(spike)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_a_curriculum_that_moves_is_no_spike(seed: int) -> None:
    """From web alone, over all mixtures, to a domain that was never drawn: the loss jumps, each domain's does not."""
    rng = np.random.default_rng(seed)
    recent = RecentLosses(DOMAINS, WINDOW, HISTORY, THRESHOLD)
    for weights in ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.1, 0.9, 0.0), (0.0, 0.0, 1.0), (0.4, 0.3, 0.3)):
        for _ in range(WINDOW):
            loss_M, tokens_M = USUAL * (1 + rng.uniform(-0.002, 0.002, 3)), 1000 * np.array(weights)
            assert judge(recent, loss_M, tokens_M) is None
            remember(recent, loss_M, tokens_M)


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.001, 0.1))
def test_a_falling_loss_is_no_spike(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    recent = RecentLosses(DOMAINS, WINDOW, HISTORY, THRESHOLD)
    for step in range(3 * WINDOW):
        loss_M, tokens_M = USUAL + 5 * math.exp(-rate * step), some_tokens(rng)
        assert judge(recent, loss_M, tokens_M) is None
        remember(recent, loss_M, tokens_M)


def test_noise_seldom_passes_six_spreads() -> None:
    rng = np.random.default_rng(1)
    recent, found = history(rng, 0.05, 128), 0
    for _ in range(2_000):
        loss_M, tokens_M = some_losses(rng, 0.05), np.array([500.0, 300.0, 200.0])
        found += judge(recent, loss_M, tokens_M) is not None
        remember(recent, loss_M, tokens_M)
    assert found <= 2  # the spread of so few steps is itself uncertain


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, HISTORY - 1))
def test_nothing_finite_stands_out_before_there_is_history(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    assert judge(history(rng, 0.01, steps), 1e6 * USUAL, some_tokens(rng)) is None


@pytest.mark.parametrize("steps", [0, 1, WINDOW])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_always_stands_out(value: float, steps: int) -> None:
    recent = history(np.random.default_rng(2), 0.01, steps)
    tokens = np.array([100.0, 200.0, 0.0])
    spike = judge(recent, np.array([3.0, value, math.nan]), tokens)
    assert spike is not None and not spike.finite
    if not value < 0:
        assert spike.domains[0][0] == "code"
    assert "math" not in str(spike)
    fine = np.array([300.0, 240.0, 0.0])
    for total, norm in ((2.0, value), (value, 1.0)):
        found = recent.judge(fine, tokens, total, norm)
        assert found is not None and not found.finite
        assert str(value) in str(found)
    assert recent.judge(fine, tokens, 2.0, 1.0) is None


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_domains_that_moved_most_are_named_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spike = judge(history(rng, 0.01), USUAL + np.array([0.5, 0.0, 9.0]), np.array([400.0, 300.0, 300.0]))
    assert spike is not None
    assert [name for name, *_ in spike.domains] == ["math", "web"]
    assert "it moved most in math (11.1, usually 2" in str(spike)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, 2 * WINDOW))
def test_a_checkpoint_brings_back_the_same_judgement(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    recent = history(rng, 0.05, steps)
    more = RecentLosses((*DOMAINS, "prose"), WINDOW, HISTORY, THRESHOLD)  # the curriculum has gained a domain
    same = RecentLosses(DOMAINS, WINDOW, HISTORY, THRESHOLD)
    for other in (more, same):
        other.load(recent.dump())
    assert same.dump() == recent.dump()
    loss_M, tokens_M = some_losses(rng, 0.3), some_tokens(rng)
    spike = judge(recent, loss_M, tokens_M)
    assert judge(same, loss_M, tokens_M) == spike
    assert str(judge(more, np.append(loss_M, 0.0), np.append(tokens_M, 0.0))) == str(spike)


@settings(deadline=None, max_examples=100)
@given(seeds, st.integers(1, 9), st.floats(0, 1))
def test_medians_are_numpys(seed: int, steps: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((steps, 4)) < missing, np.nan, rng.normal(size=(steps, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a column without a number
        expected = np.nanmedian(values, axis=0)
    np.testing.assert_array_equal(medians(values), expected)
