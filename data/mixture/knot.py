"""Samples in which anchors follow one another so closely that their counts are worked out one sample at a time.

Every sample goes to a domain that has a weight there, and the k-th sample of a domain comes after its target passed
k - 1 and before it reaches k: the windows of Tijdeman's chairman assignment ("The chairman assignment problem", 1980;
P-fair scheduling has the same). That is a bipartite matching of samples with turns of the domains.

Shapes: M domains, N samples of the knot.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from data.mixture.counts import Counts
from data.mixture.schedule import WEIGHT_UNIT, Schedule

Turn = tuple[int, int]  # (domain, its k-th sample of the knot, from 1)


class Knot:
    """Samples `start <= n < stop` of a schedule, from counts `before` [M] on.

    Args:
        domain: [N] of each sample.
    """

    def __init__(self, start: int, stop: int, before: Counts, domain: NDArray[np.int64]) -> None:
        self.start = start
        self.stop = stop
        self.domain = domain
        turns = np.eye(len(before), dtype=np.int64)[domain]
        self._counts = before + np.concatenate([np.zeros((1, len(before)), np.int64), turns.cumsum(axis=0)])
        self.after = self._counts[-1]

    @classmethod
    def to(cls, schedule: Schedule, start: int, stop: int, before: Counts, after: Counts) -> Knot | None:
        """The knot that ends with counts `after`; None if every sample can't be in its window then."""
        turns = after - before
        order = match(samples_owed(schedule, start, stop, before), 0, turns, turns) if turns.min() >= 0 else None
        return None if order is None else cls(start, stop, before, order)

    @classmethod
    def of(cls, schedule: Schedule, start: int, stop: int, before: Counts) -> Knot:
        """A knot from which it goes on well for as long again, or if there is none, the nearest thing to one.

        Where windows can't be kept they are widened. A domain that comes in far from its target (another curriculum
        began here) fits no window.
        """
        owed = samples_owed(schedule, start, 2 * stop - start, before)
        for slack in (0, 1):
            order = match(owed, slack, *nearest(owed))
            if order is not None:
                return cls(start, stop, before, order[: stop - start])
        return cls(start, stop, before, furthest_behind(owed)[: stop - start])

    def piece(self, sample: int) -> Knot:
        """A knot is not cut any further."""
        return self

    def draws(self, sample: Counts) -> tuple[Counts, Counts]:
        """(domain, how often it was drawn before), [N] each, of these samples [N] of the knot."""
        domain = self.domain[sample - self.start]
        return domain, self._counts[sample - self.start, domain]

    def counts(self, sample: int) -> Counts:
        """[M] the samples of each domain before this sample of the knot."""
        return self._counts[sample - self.start]


def goes_on(schedule: Schedule, start: int, stop: int, before: Counts) -> bool:
    """Whether every sample can be in its window from counts `before` on."""
    owed = samples_owed(schedule, start, stop, before)
    return match(owed, 0, *nearest(owed)) is not None


def samples_owed(schedule: Schedule, start: int, stop: int, before: Counts) -> NDArray[np.int64]:
    """[N + 1, M] targets before each sample and after the last, less the counts `before`; in samples / WEIGHT_UNIT."""
    targets = [schedule.target(sample) for sample in range(start, stop + 1)]
    return np.array([[t - int(b) * WEIGHT_UNIT for t, b in zip(row, before, strict=True)] for row in targets], np.int64)


def nearest(owed: NDArray[np.int64]) -> tuple[Counts, Counts]:
    """The targets at the end rounded down and up, [M] each, as turns of domains that have a weight at all."""
    most = np.where(owed[-1] > owed[0], len(owed) - 1, 0)
    return np.clip(owed[-1] // WEIGHT_UNIT, 0, most), np.clip(-(-owed[-1] // WEIGHT_UNIT), 0, most)


def furthest_behind(owed: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N] for every sample, the domain with a weight there that is furthest behind its target."""
    had = np.zeros(owed.shape[1], np.int64)
    order = np.zeros(len(owed) - 1, np.int64)
    for sample, (before, after) in enumerate(itertools.pairwise(owed)):
        behind = np.where(after > before, after - had * WEIGHT_UNIT, np.iinfo(np.int64).min)
        order[sample] = chosen = np.argmax(behind)
        had[chosen] += 1
    return order


def match(owed: NDArray[np.int64], slack: int, least: Counts, most: Counts) -> NDArray[np.int64] | None:
    """[N] a domain for every sample, each domain `least` to `most` [M] times inside its windows; None if there is none.

    Args:
        owed: [N + 1, M] targets from the knot's start, in samples / WEIGHT_UNIT.
        slack: samples by which a window begins earlier and ends later.
    """
    due = [(domain, turn) for domain, count in enumerate(least) for turn in range(1, count + 1)]
    spare = [(domain, turn) for domain, count in enumerate(most) for turn in range(least[domain] + 1, count + 1)]
    window = {turn: window_of(owed, slack, *turn) for turn in [*due, *spare]}
    due.sort(key=lambda turn: window[turn][-1] if window[turn] else -1)
    turn_at: dict[int, Turn] = {}
    if not all(place_turn(turn, window, turn_at, set()) for turn in due):
        return None
    for turn in spare:
        place_turn(turn, window, turn_at, set())
    length = len(owed) - 1
    return np.array([turn_at[n][0] for n in range(length)]) if len(turn_at) == length else None


def window_of(owed: NDArray[np.int64], slack: int, domain: int, turn: int) -> list[int]:
    """The samples that may be this turn of a domain."""
    before, after = owed[:-1, domain], owed[1:, domain]
    early, late = (turn - 1 - slack) * WEIGHT_UNIT, (turn + slack) * WEIGHT_UNIT
    return np.flatnonzero((after > before) & (after > early) & (before < late)).tolist()


def place_turn(turn: Turn, window: dict[Turn, list[int]], turn_at: dict[int, Turn], seen: set[int]) -> bool:
    """Gives a turn a sample, moving other turns where they allow it (an augmenting path, Kuhn's algorithm)."""
    for sample in window[turn]:
        if sample in seen:
            continue
        seen.add(sample)
        other = turn_at.get(sample)
        if other is None or place_turn(other, window, turn_at, seen):
            turn_at[sample] = turn
            return True
    return False
