"""A stretch of the schedule between two places where counts are known, and the way from there to any piece of it."""

from __future__ import annotations

from dataclasses import dataclass

from data.mixture.counts import Counts, settle_exactly
from data.mixture.piece import Piece, TargetLine, TargetTable
from data.mixture.schedule import Schedule


@dataclass(frozen=True)
class Stretch:
    """Samples `start <= n < stop` between two anchors, and the counts [M] at both ends.

    However long it is, nothing is kept of it but its ends: a piece is found by halving.
    """

    schedule: Schedule
    start: int
    stop: int
    before: Counts
    after: Counts

    def piece(self, sample: int) -> Piece:
        """The piece that holds `sample`: the stretch is halved, and the counts are settled at the middle."""
        size = self.schedule.piece_size(self.start)
        if size is None:
            table = TargetTable.of(self.schedule, self.start, self.stop, self.before)
            return Piece(self.start, self.stop, self.before, self.after, table)
        node = 1 << (self.stop - self.start - 1).bit_length()
        start, stop, left, right = self.start, self.stop, self.before, self.after
        while node > size:
            node //= 2
            middle = start + node
            if middle >= stop:
                continue
            counts = settle_exactly(self.schedule.target(middle), left, right, middle)
            if sample < middle:
                stop, right = middle, counts
            else:
                start, left = middle, counts
        return Piece(start, stop, left, right, TargetLine.of(self.schedule, start, stop, left))

    def counts(self, sample: int) -> Counts:
        """[M] the samples of each domain before `sample`, which is after the stretch's start."""
        return self.after if sample == self.stop else self.piece(sample - 1).counts(sample)
