"""A piece of the schedule: its counts at every LEAF samples, and the order of the domains between them.

Shapes: M domains, N leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.mixture.counts import Counts, Targets, settle
from data.mixture.schedule import WEIGHT_UNIT, Schedule
from data.mixture.spread import spread

LEAF = 64  # samples between places where counts are settled


class Piece:
    """Samples `start <= n < stop` of a schedule, and the counts at both ends.

    Args:
        targets: of the piece, counted from its start and from the counts there.
        before: [M] each domain's count before `start`.
        after: [M] its count before `stop`.
    """

    def __init__(self, start: int, stop: int, before: Counts, after: Counts, targets: TargetLine | TargetTable) -> None:
        self.start = start
        self.stop = stop
        self.before = before
        self.length = stop - start
        self._gained = after - before
        self._targets = targets

    def draws(self, sample: Counts) -> tuple[Counts, Counts]:
        """(domain, how often it was drawn before), [N] each, of these samples [N] of the piece, ascending."""
        leaf, inside = np.divmod(sample - self.start, LEAF)
        leaves = np.unique(leaf)
        domain, draw = self._spread(leaves, *self._leaves(leaves))
        where = np.searchsorted(leaves, leaf)
        return domain[where, inside], draw[where, inside]

    def counts(self, sample: int) -> Counts:
        """[M] the samples of each domain before `sample`, which is after the piece's start."""
        place = sample - self.start
        leaf = np.array([(place - 1) // LEAF])
        left, right = self._leaves(leaf)
        if place % LEAF == 0 or sample == self.stop:
            return self.before + right[0]
        domain, _ = self._spread(leaf, left, right)
        inside = np.bincount(domain[0, : place - int(leaf[0]) * LEAF], minlength=len(self.before))
        return self.before + left[0] + inside

    def _spread(self, leaf: Counts, left: Counts, right: Counts) -> tuple[Counts, Counts]:
        """(domain, count of that domain before the sample), [N, LEAF] each, of the samples of these leaves [N], given
        the counts at their ends."""
        start = leaf * LEAF
        domain, before = spread(self._targets.at(start), self._targets.gains(start), left, right)
        return domain.astype(np.int64), before + self.before[domain]

    def _leaves(self, leaf: Counts) -> tuple[Counts, Counts]:
        """The counts at the start and at the end, [N, M] each, of these leaves [N] (sorted, each once).

        Here and in `_targets` they are counted from the piece's start, where every domain has 0.
        """
        # A node of level h is the stretch [id * 2^h, (id + 1) * 2^h) of the piece, cut at the piece's end.
        level = max(LEAF.bit_length() - 1, (self.length - 1).bit_length())
        node = np.zeros(1, np.int64)
        left = np.zeros((1, len(self.before)), np.int64)
        right = self._gained[None]
        while (1 << level) > LEAF:
            level -= 1
            place = np.minimum((2 * node + 1) << level, self.length)
            settled = settle(self._targets.at(place), left, right, place)
            child = unique_sorted(leaf >> (level - LEAF.bit_length() + 1))
            parent = np.searchsorted(node, child >> 1)
            second = (child & 1).astype(bool)[:, None]
            left, right = (
                np.where(second, settled[parent], left[parent]),
                np.where(second, right[parent], settled[parent]),
            )
            node = child
        return left, right


@dataclass(frozen=True)
class TargetLine:
    """Targets inside a piece with straight weights: `offset + slope * place + bend * place^2`, [M] each."""

    offset: Targets
    slope: Targets
    bend: Targets

    @classmethod
    def of(cls, schedule: Schedule, start: int, stop: int, before: Counts) -> TargetLine:
        first, last = schedule.target(start), schedule.target(stop)
        asked = [after - target for target, after in zip(first, last, strict=True)]
        slope = np.array(schedule.weights_at(start), np.float64) / WEIGHT_UNIT
        mean = np.array(asked, np.float64) / (WEIGHT_UNIT * (stop - start))
        return cls(samples_owed(first, before), slope, (mean - slope) / (stop - start))

    def at(self, place: Counts) -> Targets:
        n = place.astype(np.float64)[:, None]
        return self.offset + n * self.slope + n * n * self.bend

    def gains(self, place: Counts) -> Callable[[int], Targets]:
        """What the k-th sample after each `place` [N] adds to the targets, [N, M]."""
        n = place.astype(np.float64)[:, None]
        first = self.slope + (2 * n + 1) * self.bend
        if not self.bend.any():
            return lambda k: first
        return lambda k: first + 2 * k * self.bend


@dataclass(frozen=True)
class TargetTable:
    """Targets inside a piece that is too short and too curved for a line: [length + 1, M], one by one."""

    targets: Targets

    @classmethod
    def of(cls, schedule: Schedule, start: int, stop: int, before: Counts) -> TargetTable:
        return cls(np.stack([samples_owed(schedule.target(n), before) for n in range(start, stop + 1)]))

    def at(self, place: Counts) -> Targets:
        return self.targets[place]

    def gains(self, place: Counts) -> Callable[[int], Targets]:
        """What the k-th sample after each `place` [N] adds to the targets, [N, M]; nothing after the piece's end."""
        last = len(self.targets) - 1
        return lambda k: self.targets[np.minimum(place + k + 1, last)] - self.targets[np.minimum(place + k, last)]


def samples_owed(target: Sequence[int], counts: Counts) -> Targets:
    """[M] targets, in samples / WEIGHT_UNIT, less counts: in samples, however far into a run."""
    return np.array([t - int(c) * WEIGHT_UNIT for t, c in zip(target, counts, strict=True)], np.float64) / WEIGHT_UNIT


def unique_sorted(values: Counts) -> Counts:
    """The different values of a sorted array."""
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values
