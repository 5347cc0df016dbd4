"""A run's pieces one after another, through every change of its curriculum: where each begins, and the counts there.

Shapes: M domains.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.mixture.counts import LEAF, Counts, PieceCounts, count_pieces
from data.mixture.schedule import Schedule
from data.mixture.spread import spread


@dataclass(frozen=True)
class Era:
    """A curriculum, and the sample from which on it was followed."""

    start: int
    schedule: Schedule


class Timeline:
    """Finds the piece that holds a sample. Pieces are worked out as far as they are asked for.

    What stays in memory is each piece's start and counts: for 20 domains some 300 bytes a million samples.
    """

    def __init__(self, eras: Sequence[Era]) -> None:
        assert eras[0].start == 0
        self.eras = tuple(eras)
        self._starts = [0]
        self._counts = [np.zeros(len(eras[0].schedule.domains), np.int64)]
        self._piece = lru_cache(maxsize=16)(self._work_out)

    def at(self, sample: int) -> PieceCounts:
        """The piece that holds `sample`."""
        while self._starts[-1] <= sample:
            self._extend()
        return self._piece(bisect_right(self._starts, sample) - 1)

    def stop(self, piece: PieceCounts) -> int:
        """The sample after the last one that is read from this piece: its end, or where another curriculum began."""
        following = bisect_right(self.eras, piece.piece.start, key=lambda era: era.start)
        ends = [piece.piece.stop, *(era.start for era in self.eras[following : following + 1])]
        return min(ends)

    def counts(self, sample: int) -> Counts:
        """[M] the samples of each domain before `sample`."""
        if sample == 0:
            return self._counts[0]
        piece = self.at(sample - 1)
        return counts_inside(piece, sample - piece.piece.start)

    def known(self) -> tuple[list[int], Counts]:
        """What has been worked out, for another process."""
        return self._starts, np.stack(self._counts)

    def learn(self, starts: list[int], counts: Counts) -> None:
        """Take over what another process has worked out."""
        self._starts, self._counts = list(starts), list(counts)

    def _extend(self) -> None:
        piece = self._piece(len(self._starts) - 1)
        stop = self.stop(piece)
        cut = stop < piece.piece.stop
        self._counts.append(counts_inside(piece, stop - piece.piece.start) if cut else piece.after)
        self._starts.append(stop)

    def _work_out(self, number: int) -> PieceCounts:
        start = self._starts[number]
        era = self.eras[bisect_right(self.eras, start, key=lambda era: era.start) - 1]
        return next(count_pieces(era.schedule, start, self._counts[number]))


def spread_leaves(piece: PieceCounts, leaf: Counts) -> tuple[Counts, Counts]:
    """(domain, count of that domain before the sample), [N, LEAF] each, of the samples of these leaves [N]."""
    left, right = piece.leaves(leaf)
    line, start = piece.line, leaf * LEAF
    domain, before = spread(line.at(start), line.step(start), 2 * line.bend, left, right)
    return domain.astype(np.int64), before + piece.before[domain]


def counts_inside(piece: PieceCounts, place: int) -> Counts:
    """[M] the samples of each domain before `place` (above 0) of a piece, and before the piece."""
    leaf = np.array([(place - 1) // LEAF])
    left, right = piece.leaves(leaf)
    if place % LEAF == 0 or place == piece.length:
        return piece.before + right[0]
    domain, _ = spread_leaves(piece, leaf)
    inside = np.bincount(domain[0, : place - int(leaf[0]) * LEAF], minlength=len(piece.before))
    return piece.before + left[0] + inside
