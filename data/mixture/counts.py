"""Targets become counts: whole numbers near the targets that sum to the number of samples.

A domain's target is the integral of its weight; its count is a whole number less than 1 away from it wherever counts
are settled. Between two places where they are known, a place's counts are its targets rounded down or up, the largest
remainders up, and never below the left or above the right: so a domain's count never falls.

Shapes: M domains, N places.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.mixture.schedule import WEIGHT_UNIT

# A target within this of a whole number is that number: floats are not exact, and nobody can tell.
TOLERANCE = 1e-9

Counts = NDArray[np.int64]
Targets = NDArray[np.float64]


def settle(target: Targets, low: Counts, high: Counts, total: Counts) -> Counts:
    """[N, M] whole numbers near `target` with `low <= n <= high` that sum to `total` [N] along each row.

    Each is its target rounded down or up, the largest remainders up, wherever that is possible.
    """
    down, up = rounded(target, low, high)
    missing = total - down.sum(axis=1)
    remainder = np.where(up > down, target - down, -np.inf)
    order = np.argsort(-remainder, axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(target.shape[1])[None], axis=1)
    settled = down + ((place < missing[:, None]) & (up > down))
    for row in np.flatnonzero(settled.sum(axis=1) != total):
        settled[row] = settle_apart(target[row], settled[row], low[row], high[row], int(total[row]))
    return settled


def settle_exactly(target: Sequence[int], low: Counts, high: Counts, total: int) -> Counts:
    """[M] as `settle`, of one place however far into a run; `target` in samples / WEIGHT_UNIT."""
    whole, part = parted(target)
    return whole + settle(part[None], (low - whole)[None], (high - whole)[None], np.array([total - whole.sum()]))[0]


def settle_end(target: Sequence[int], later: Sequence[int], low: Counts, high: Counts, total: int) -> Counts:
    """[M] as `settle_exactly`, where a stretch of the schedule ends.

    What a domain is owed there can be paid later only as fast as its weight allows, and not at all if it has none. So
    the slow domains are rounded first, each taking over what the ones before it are owed: all the slower ones together
    are then owed less than a sample, and so are the faster ones, who make up for them.

    Args:
        later: [M] the targets somewhat later, from which the domains' speeds are taken.
    """
    whole, part = parted(target)
    down, up = rounded(part, low - whole, high - whole)
    settled = np.empty_like(whole)
    owed = 0.0
    speed = [after - before for before, after in zip(target, later, strict=True)]
    for domain in sorted(range(len(whole)), key=lambda domain: (up[domain] > down[domain], speed[domain])):
        owed += part[domain]
        settled[domain] = min(max(int(np.floor(owed + 0.5)), down[domain]), up[domain])
        owed -= settled[domain]
    return whole + settle_apart(part, settled, low - whole, high - whole, total - int(whole.sum()))


def parted(target: Sequence[int]) -> tuple[Counts, Targets]:
    """[M] the whole samples of targets in samples / WEIGHT_UNIT, and the rest."""
    whole = np.array([amount // WEIGHT_UNIT for amount in target], np.int64)
    return whole, np.array([amount % WEIGHT_UNIT for amount in target], np.float64) / WEIGHT_UNIT


def rounded(target: Targets, low: Counts, high: Counts) -> tuple[Counts, Counts]:
    """Targets rounded down and rounded up, within `low` and `high`; all of one shape."""
    down = np.clip(np.floor(target + TOLERANCE).astype(np.int64), low, high)
    return down, np.clip(np.ceil(target - TOLERANCE).astype(np.int64), down, high)


def settle_apart(target: Targets, counts: Counts, low: Counts, high: Counts, total: int) -> Counts:
    """[M] counts that sum to `total` where rounding alone can't: the one that is furthest off is moved, in turn."""
    counts = counts.copy()
    missing = total - int(counts.sum())
    step = 1 if missing > 0 else -1
    for _ in range(abs(missing)):
        movable = counts < high if step > 0 else counts > low
        counts[np.argmax(np.where(movable, step * (target - counts), -np.inf))] += step
    return counts
