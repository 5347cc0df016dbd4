"""The weights of the domains at every sample: anchors, and the ramps between them.

Weights are integers in units of 1 / WEIGHT_UNIT that always sum to WEIGHT_UNIT, so that every later count is exact
integer arithmetic, the same on every machine.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

WEIGHT_UNIT = 1 << 20
RAMPS = ("step", "linear", "cosine")

# A ramp is followed in straight pieces: short enough to follow a cosine within half a sample, and no longer than a
# block of constant weights.
BLOCK = 2048
SHORTEST_BLOCK = 64
BLOCKS_PER_RAMP = 64


@dataclass(frozen=True)
class ScheduleAnchor:
    """One point of the curriculum: the weights from sample `at` on, and the ramp that leads there."""

    at: int
    weights: tuple[int, ...]
    ramp: str = "step"


@dataclass(frozen=True)
class Block:
    """Samples `start <= n < stop`, over which the weights go in a straight line from `first` to `last`."""

    start: int
    stop: int
    first: tuple[int, ...]
    last: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """Weights as a function of the sample index; constant after the last anchor."""

    domains: tuple[str, ...]
    anchors: tuple[ScheduleAnchor, ...]

    def weights_at(self, sample: int) -> tuple[int, ...]:
        """The weights in force at `sample`, in units of 1 / WEIGHT_UNIT, one for each domain."""
        here = bisect_right(self.anchors, sample, key=lambda anchor: anchor.at) - 1
        anchor = self.anchors[here]
        if here + 1 == len(self.anchors) or self.anchors[here + 1].ramp == "step":
            return anchor.weights
        return ramp_weights(anchor, self.anchors[here + 1], sample)

    def blocks(self, start: int = 0) -> Iterator[Block]:
        """The blocks from the one that begins at `start` on, for ever; cut at anchors, short where weights change."""
        for anchor, following in itertools.pairwise(self.anchors):
            if following.at > start:
                yield from span_blocks(anchor, following, max(start, anchor.at))
        last = self.anchors[-1]
        for begin in itertools.count(max(start, last.at), BLOCK):
            yield Block(begin, begin + BLOCK, last.weights, last.weights)


def span_blocks(anchor: ScheduleAnchor, following: ScheduleAnchor, first: int) -> Iterator[Block]:
    """The blocks between two neighbouring anchors, from the one that begins at `first` on."""
    length = following.at - anchor.at
    changes = following.ramp != "step"
    size = max(SHORTEST_BLOCK, min(BLOCK, floor_power_of_two(length // BLOCKS_PER_RAMP))) if changes else BLOCK
    for start in range(first, following.at, size):
        stop = min(start + size, following.at)
        if changes:
            yield Block(start, stop, ramp_weights(anchor, following, start), ramp_weights(anchor, following, stop))
        else:
            yield Block(start, stop, anchor.weights, anchor.weights)


def floor_power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)


def ramp_weights(anchor: ScheduleAnchor, following: ScheduleAnchor, sample: int) -> tuple[int, ...]:
    """The weights at `sample` on the ramp from `anchor` to `following`."""
    progress = Fraction(sample - anchor.at, following.at - anchor.at)
    if following.ramp == "cosine":
        progress = cosine_progress(progress)
    exact = [first + (last - first) * progress for first, last in zip(anchor.weights, following.weights, strict=True)]
    return apportion(exact, WEIGHT_UNIT)


def cosine_progress(progress: Fraction) -> Fraction:
    """(1 - cos(pi * progress)) / 2 to 2^-30.

    As sin^2 by its Taylor series, from multiplications and additions alone: these are the same on every machine, which
    no library promises of cos.
    """
    angle = float(progress) * 1.5707963267948966
    term = total = angle
    for k in range(1, 12):
        term *= -angle * angle / ((2 * k) * (2 * k + 1))
        total += term
    return Fraction(round(total * total * (1 << 30)), 1 << 30)


def apportion(exact: Sequence[Fraction], total: int) -> tuple[int, ...]:
    """Whole numbers that sum to `total`, each within 1 of `exact` (which sums to `total`): largest remainders go up."""
    floors = [int(value // 1) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], i))
    for i in by_remainder[: total - sum(floors)]:
        floors[i] += 1
    return tuple(floors)


def quantise(weights: Mapping[str, float], domains: Sequence[str]) -> tuple[int, ...]:
    """Weights as fractions of WEIGHT_UNIT that sum to it exactly; a positive weight is never rounded to none."""
    total = sum(Fraction(weight) for weight in weights.values())
    exact = [Fraction(weights.get(domain, 0)) / total * WEIGHT_UNIT for domain in domains]
    units = list(apportion(exact, WEIGHT_UNIT))
    for i, value in enumerate(exact):
        if value > 0 and units[i] == 0:
            units[i] = 1
            units[units.index(max(units))] -= 1
    return tuple(units)
