"""The weights of the domains at every sample: anchors, the ramps between them, and what they add up to.

Weights are whole numbers of 1 / WEIGHT_UNIT that always sum to WEIGHT_UNIT. Whatever decides where a sample goes is
worked out with integers, or with the float operations that every machine rounds alike (+ - * /).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

WEIGHT_UNIT = 1 << 40  # over 12T tokens in samples of 2,048, rounding a weight moves 0.003 samples
RAMPS = ("step", "linear", "cosine")

# Ramps are worked out in fixed point with this many binary places.
PLACES = 80
ONE = 1 << PLACES
PI = 3797952473636338580787994  # pi, to PLACES binary places

# A schedule is read in pieces, in each of which the weights are taken for straight lines. Those of a cosine are so
# short that the count which it asks for is followed within a tenth of a sample.
LONGEST_PIECE = 1 << 20
SHORTEST_PIECE = 64


@dataclass(frozen=True)
class ScheduleAnchor:
    """One point of the curriculum: the weights from sample `at` on, and the ramp that leads there."""

    at: int
    weights: tuple[int, ...]
    ramp: str = "step"


@dataclass(frozen=True)
class Schedule:
    """Weights as a function of the sample index; constant after the last anchor."""

    domains: tuple[str, ...]
    anchors: tuple[ScheduleAnchor, ...]

    def weights_at(self, sample: int) -> tuple[int, ...]:
        """[domains] the weights in force at `sample`, in units of 1 / WEIGHT_UNIT."""
        anchor, following = self._span(sample)
        if following is None or following.ramp == "step":
            return anchor.weights
        return ramp_weights(anchor, following, sample)

    def target(self, sample: int) -> tuple[int, ...]:
        """[domains] the integral of the weights over the samples before `sample`, in samples / WEIGHT_UNIT."""
        anchor, following = self._span(sample)
        before = self._target_at_anchor[anchor]
        return tuple(total + more for total, more in zip(before, asked_in_span(anchor, following, sample), strict=True))

    def next_anchor(self, sample: int) -> int | None:
        """The first anchor after `sample`; None after the last one."""
        following = self._span(sample)[1]
        return following.at if following else None

    def piece_size(self, sample: int) -> int | None:
        """How many samples around `sample`, a power of two, may be taken for a straight line; None if too few may."""
        anchor, following = self._span(sample)
        if following is None or following.ramp != "cosine":
            return LONGEST_PIECE
        length = following.at - anchor.at
        if length < 16 * SHORTEST_PIECE:
            return None
        return min(LONGEST_PIECE, max(SHORTEST_PIECE, floor_power_of_two(length // 512)))

    def _span(self, sample: int) -> tuple[ScheduleAnchor, ScheduleAnchor | None]:
        """The anchor that `sample` comes after, and the next one if there is one."""
        here = bisect_right(self.anchors, sample, key=lambda anchor: anchor.at) - 1
        return self.anchors[here], self.anchors[here + 1] if here + 1 < len(self.anchors) else None

    @cached_property
    def _target_at_anchor(self) -> dict[ScheduleAnchor, tuple[int, ...]]:
        total = (0,) * len(self.domains)
        targets = {self.anchors[0]: total}
        for anchor, following in itertools.pairwise(self.anchors):
            span = asked_in_span(anchor, following, following.at)
            total = tuple(before + more for before, more in zip(total, span, strict=True))
            targets[following] = total
        return targets


def asked_in_span(anchor: ScheduleAnchor, following: ScheduleAnchor | None, sample: int) -> list[int]:
    """[domains] the integral of the weights from `anchor` to `sample`, which is not after `following`."""
    done = sample - anchor.at
    if following is None or following.ramp == "step":
        return [weight * done for weight in anchor.weights]
    length = following.at - anchor.at
    gone = ramp_integral(following.ramp, done, length)
    return [
        weight * done + ((after - weight) * length * gone >> PLACES)
        for weight, after in zip(anchor.weights, following.weights, strict=True)
    ]


def ramp_progress(ramp: str, done: int, length: int) -> int:
    """How much of the way from one anchor's weights to the next is gone: 0 to ONE."""
    if ramp == "cosine":  # (1 - cos(pi p)) / 2 = sin^2(pi p / 2)
        return sine(PI * done // (2 * length)) ** 2 >> PLACES
    return done * ONE // length


def ramp_integral(ramp: str, done: int, length: int) -> int:
    """The integral of `ramp_progress` over the share of the ramp that is done: 0 to ONE / 2."""
    if ramp == "cosine":  # p / 2 - sin(pi p) / (2 pi)
        nearest_end = min(done, length - done)
        return (done * ONE // length - sine(PI * nearest_end // length) * ONE // PI) // 2
    return done * done * ONE // (2 * length * length)


def sine(angle: int) -> int:
    """sin of an angle from 0 to pi / 2, both in fixed point, by its Taylor series: the same on every machine, which no
    library promises."""
    term = total = angle
    turn = 1
    while term:
        term = -term * angle // ONE * angle // ONE // ((turn + 1) * (turn + 2)) if abs(term) > 1 else 0
        total += term
        turn += 2
    return total


def floor_power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)


def ramp_weights(anchor: ScheduleAnchor, following: ScheduleAnchor, sample: int) -> tuple[int, ...]:
    """The weights at `sample` on the ramp from `anchor` to `following`."""
    progress = Fraction(ramp_progress(following.ramp, sample - anchor.at, following.at - anchor.at), ONE)
    exact = [first + (last - first) * progress for first, last in zip(anchor.weights, following.weights, strict=True)]
    return apportion(exact, WEIGHT_UNIT)


def apportion(exact: Sequence[Fraction], total: int) -> tuple[int, ...]:
    """Whole numbers that sum to `total`, each within 1 of `exact` (which sums to `total`): largest remainders go up."""
    floors = [int(value // 1) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], i))
    for i in by_remainder[: total - sum(floors)]:
        floors[i] += 1
    return tuple(floors)


def quantise(weights: Mapping[str, float | Fraction], domains: Sequence[str]) -> tuple[int, ...]:
    """Weights as fractions of WEIGHT_UNIT that sum to it exactly; a positive weight is never rounded to none."""
    total = sum(Fraction(weight) for weight in weights.values())
    exact = [Fraction(weights.get(domain, 0)) / total * WEIGHT_UNIT for domain in domains]
    units = list(apportion(exact, WEIGHT_UNIT))
    for i, value in enumerate(exact):
        if value > 0 and units[i] == 0:
            units[i] = 1
            units[units.index(max(units))] -= 1
    return tuple(units)
