"""Samples in which anchors follow one another so closely that their counts are worked out one sample at a time.

Every sample goes to a domain that has a weight there, and the k-th sample of a domain comes after its target passed
k - 1 and before it reaches k: the windows of Tijdeman's chairman assignment ("The chairman assignment problem", 1980;
P-fair scheduling has the same). That is a bipartite matching of samples with turns of the domains.

Shapes: M domains, N samples of the knot.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.mixture.counts import Counts, settle_end
from data.mixture.schedule import WEIGHT_UNIT, Schedule

Turn = tuple[int, int]  # (domain, its k-th sample of the knot, from 1)


class Knot:
    """Samples `start <= n < stop` of a schedule, from counts `before` [M] on."""

    def __init__(self, schedule: Schedule, start: int, stop: int, before: Counts) -> None:
        self.start = start
        self.stop = stop
        horizon = 2 * stop - start  # what comes next decides which counts it can be reached from
        target = [schedule.target(sample) for sample in range(start, horizon + 1)]
        later = schedule.target(horizon + stop - start)
        self.domain = order_of_domains(target, later, before, horizon)[: stop - start]
        turns = np.eye(len(before), dtype=np.int64)[self.domain]
        self._counts = before + np.concatenate([np.zeros((1, len(before)), np.int64), turns.cumsum(axis=0)])
        self.after = self._counts[-1]

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


def order_of_domains(
    target: Sequence[Sequence[int]], later: Sequence[int], before: Counts, stop: int
) -> NDArray[np.int64]:
    """[N] the domain of each sample, from the targets [N + 1, M] before each of them and after the last.

    Where the best counts at the end can't be reached, others less than a sample from their targets are tried, then
    wider windows. A domain that comes in far from its target (another curriculum began here) fits no window.
    """
    owed = np.array([[t - int(b) * WEIGHT_UNIT for t, b in zip(row, before, strict=True)] for row in target], np.int64)
    most = np.where(owed[-1] > owed[0], len(owed) - 1, 0)
    best = settle_end(target[-1], later, before, before + most, stop) - before
    low, high = (np.clip(edge, 0, most) for edge in (owed[-1] // WEIGHT_UNIT, -(-owed[-1] // WEIGHT_UNIT)))
    for slack in (0, 1):
        for least, most in ((best, best), (low, high)):
            order = match(owed, slack, least, most)
            if order is not None:
                return order
    return furthest_behind(owed)


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
