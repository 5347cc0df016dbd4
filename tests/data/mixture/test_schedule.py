"""Weights and their integrals: exact where they can be, and the same on every machine."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.mixture.schedule import ONE, PI, WEIGHT_UNIT, Schedule, ScheduleAnchor, quantise, ramp_integral, sine

DOMAINS = ("web", "code", "math")


@given(share=st.fractions(0, 1, max_denominator=10**9))
def test_sine(share: Fraction) -> None:
    angle = int(share * Fraction(math.pi / 2) * ONE)
    assert sine(angle) / ONE == pytest.approx(math.sin(angle / ONE), abs=1e-15)


@given(length=st.integers(1, 10**10), share=st.fractions(0, 1, max_denominator=10**6))
def test_the_integral_of_a_cosine_ramp(length: int, share: Fraction) -> None:
    done = int(share * length)
    p = done / length
    integral = ramp_integral("cosine", done, length) / ONE
    assert integral == pytest.approx(p / 2 - math.sin(math.pi * p) / (2 * math.pi), abs=1e-15)


@pytest.mark.parametrize("ramp", ["step", "linear", "cosine"])
def test_targets_add_up_to_the_samples(ramp: str) -> None:
    schedule = Schedule(
        DOMAINS,
        (
            ScheduleAnchor(0, quantise({"web": 0.7, "code": 0.3}, DOMAINS)),
            ScheduleAnchor(3_000_000_001, quantise({"web": 0.1, "code": 0.2, "math": 0.7}, DOMAINS), ramp),
        ),
    )
    for sample in (0, 1, 1000, 1_500_000_000, 3_000_000_000, 3_000_000_001, 4_000_000_000):
        assert abs(sum(schedule.target(sample)) - sample * WEIGHT_UNIT) <= len(DOMAINS)
        assert sum(schedule.weights_at(sample)) == WEIGHT_UNIT


@pytest.mark.parametrize("ramp", ["linear", "cosine"])
def test_a_target_is_the_sum_of_the_weights(ramp: str) -> None:
    """By the midpoint rule over every sample of a ramp, whose error is below length / 24 * (pi^2 / 2) / length^2."""
    start, end = quantise({"web": 1.0}, DOMAINS), quantise({"code": 0.9, "math": 0.1}, DOMAINS)
    schedule = Schedule(DOMAINS, (ScheduleAnchor(0, start), ScheduleAnchor(1000, end, ramp)))
    twice = Schedule(DOMAINS, (ScheduleAnchor(0, start), ScheduleAnchor(2000, end, ramp)))
    for domain in range(3):
        middle = sum(twice.weights_at(2 * sample + 1)[domain] for sample in range(700))
        assert schedule.target(700)[domain] / WEIGHT_UNIT == pytest.approx(middle / WEIGHT_UNIT, abs=3e-4)


def test_a_piece_is_short_where_weights_curve() -> None:
    schedule = Schedule(
        DOMAINS,
        (
            ScheduleAnchor(0, quantise({"web": 1.0}, DOMAINS)),
            ScheduleAnchor(1000, quantise({"code": 1.0}, DOMAINS), "cosine"),
            ScheduleAnchor(5_000_000, quantise({"math": 1.0}, DOMAINS)),
        ),
    )
    assert [schedule.next_anchor(sample) for sample in (0, 999, 1000, 5_000_000)] == [1000, 1000, 5_000_000, None]
    assert schedule.piece_size(500) is None
    assert schedule.piece_size(1000) == schedule.piece_size(6_000_000) == 1 << 20


def test_weights_sum_and_small_ones_stay() -> None:
    units = quantise({"web": 1 - 1e-14, "code": 1e-14, "math": 0}, DOMAINS)
    assert sum(units) == WEIGHT_UNIT
    assert units[1] == 1
    assert units[2] == 0


def test_pi_is_pi() -> None:
    assert math.pi == PI / ONE
