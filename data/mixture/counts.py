"""How many samples each domain has had before any sample of the run.

A domain's target is the integral of its weight; its count is a whole number less than 1 away from it at every multiple
of LEAF samples. Counts are settled from the ends of a stretch towards its middle: between two places where they are
known, they are the targets at the middle rounded down or up so that they sum to its sample index, the largest
remainders up, and never below the left or above the right. So any place is found from the ends of its piece of the
schedule in a few steps, a domain's count never falls, and nothing is carried from one place to the next.

Shapes: M domains, N places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.mixture.schedule import WEIGHT_UNIT, Piece, Schedule

LEAF = 64  # samples between places where counts are settled

# A target within this of a whole number is that number: floats are not exact, and nobody can tell.
TOLERANCE = 1e-9

Counts = NDArray[np.int64]
Targets = NDArray[np.float64]


class PieceCounts:
    """The counts inside one piece of a schedule, whose counts at both ends are known.

    Everything here is counted from the piece's start, where every domain has 0.

    Args:
        piece: the piece.
        before: [M] each domain's count before the piece.
        after: [M] its count after the piece.
    """

    def __init__(self, piece: Piece, before: Counts, after: Counts) -> None:
        self.piece = piece
        self.before = before
        self.after = after
        self.length = piece.stop - piece.start
        self.line = TargetLine.of(piece, before)

    def leaves(self, leaf: Counts) -> tuple[Counts, Counts]:
        """The counts at the start and at the end, [N, M] each, of these leaves [N] (sorted, each once)."""
        # A node of level h is the stretch [id * 2^h, (id + 1) * 2^h) of the piece, cut at the piece's end.
        level = max(LEAF.bit_length() - 1, (self.length - 1).bit_length())
        node = np.zeros(1, np.int64)
        left = np.zeros((1, len(self.before)), np.int64)
        right = (self.after - self.before)[None]
        while (1 << level) > LEAF:
            level -= 1
            place = np.minimum((2 * node + 1) << level, self.length)
            settled = settle(self.line.at(place), left, right, place)
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
    """Targets inside a piece, from its start: `offset + slope * place + bend * place^2`, [M] each."""

    offset: Targets
    slope: Targets
    bend: Targets

    @classmethod
    def of(cls, piece: Piece, before: Counts) -> TargetLine:
        length = piece.stop - piece.start
        owed = [target - int(count) * WEIGHT_UNIT for target, count in zip(piece.target, before, strict=True)]
        asked = [after - target for target, after in zip(piece.target, piece.target_after, strict=True)]
        slope = np.array(piece.first, np.float64) / WEIGHT_UNIT
        mean = np.array(asked, np.float64) / (WEIGHT_UNIT * length)
        return cls(np.array(owed, np.float64) / WEIGHT_UNIT, slope, (mean - slope) / length)

    def at(self, place: Counts) -> Targets:
        n = place.astype(np.float64)[:, None]
        return self.offset + n * self.slope + n * n * self.bend

    def step(self, place: Counts) -> Targets:
        """[N, M] what the sample at each `place` [N] adds to the targets."""
        n = place.astype(np.float64)[:, None]
        return self.slope + (2 * n + 1) * self.bend


def count_pieces(schedule: Schedule, start: int, counts: Counts) -> Iterator[PieceCounts]:
    """The pieces of a schedule from sample `start` on, before which the domains have `counts` [M]; without end."""
    for piece in schedule.pieces(start):
        after = counts + settle_end(piece, TargetLine.of(piece, counts))
        yield PieceCounts(piece, counts, after)
        counts = after


def settle_end(piece: Piece, line: TargetLine) -> Counts:
    """[M] counts at a piece's end, from its start.

    A domain whose weight is zero from there on keeps for good what it is owed then. So the leaving ones are settled
    first, and as many of them are rounded up as their sum asks: what all the others have to make up for, now and later,
    stays less than a sample.
    """
    length = np.array([piece.stop - piece.start])
    target = line.at(length)
    asked = np.array([after > before for before, after in zip(piece.target, piece.target_after, strict=True)])
    low = np.zeros(target.shape, np.int64)
    high = np.where(asked, length[0], low)
    ends = np.array(piece.ends)
    leaving, staying = asked & ends, asked & ~ends
    if leaving.any() and staying.any():
        # Those that stay make up for all the others until the piece's end, and after it only for those that ended.
        owed = target[:, ends].sum(axis=1) + target[:, ~asked & ~ends].sum(axis=1) / 2
        down, up = rounded(target[:, leaving], low[:, leaving], high[:, leaving])
        total = np.clip(np.floor(owed + 0.5).astype(np.int64), down.sum(axis=1), up.sum(axis=1))
        low[:, leaving] = high[:, leaving] = settle(target[:, leaving], down, up, total)
    return settle(target, low, high, length)[0]


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


def unique_sorted(values: Counts) -> Counts:
    """The different values of a sorted array."""
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values
