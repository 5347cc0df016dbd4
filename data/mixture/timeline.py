"""A run's stretches one after another, through every change of its curriculum, and the counts where they meet.

Shapes: M domains.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from data.mixture.counts import Counts, settle_end
from data.mixture.knot import Knot, goes_on
from data.mixture.piece import LEAF, Piece
from data.mixture.schedule import Schedule
from data.mixture.stretch import Stretch

ENDLESS = 1 << 44  # samples: no run is as long, and only the last stretch of a schedule has no end
AHEAD = (LEAF, 1, LEAF // 8, 4 * LEAF)  # samples over which a domain's speed is taken, one after the other
PIECES_KEPT = 16


@dataclass(frozen=True)
class Era:
    """A curriculum, and the sample from which on it was followed.

    Attributes:
        shards: by domain, how many shards there were then; a domain that is missing had all that it has now.
    """

    start: int
    schedule: Schedule
    shards: Mapping[str, int] = field(default_factory=dict)


class Timeline:
    """Finds the piece that holds a sample. What stays in memory is a stretch for each anchor, however long they are."""

    def __init__(self, eras: Sequence[Era]) -> None:
        assert eras[0].start == 0
        self.eras = tuple(eras)
        self._stretches = tuple(stretches(self.eras))
        self._recent: tuple[Piece | Knot, ...] = ()

    def at(self, sample: int) -> Piece | Knot:
        """The piece that holds `sample`."""
        for piece in self._recent:
            if piece.start <= sample < self.stop(piece):
                return piece
        holder = bisect_right(self._stretches, sample, key=lambda stretch: stretch.start) - 1
        piece = self._stretches[holder].piece(sample)
        self._recent = (piece, *self._recent[: PIECES_KEPT - 1])  # one assignment: other threads read it
        return piece

    def stop(self, piece: Piece | Knot) -> int:
        """The sample after the last one that is read from this piece: its end, or where another curriculum began."""
        following = bisect_right(self.eras, piece.start, key=lambda era: era.start)
        return min([piece.stop, *(era.start for era in self.eras[following : following + 1])])

    def counts(self, sample: int) -> Counts:
        """[M] the samples of each domain before `sample`."""
        if sample == 0:
            return np.zeros(len(self.eras[0].schedule.domains), np.int64)
        return self.at(sample - 1).counts(sample)


def stretches(eras: Sequence[Era]) -> Iterator[Stretch | Knot]:
    """Each stretch between anchors, in turn; one that another curriculum cuts short is followed by that one's."""
    counts = np.zeros(len(eras[0].schedule.domains), np.int64)
    ends = [*(era.start for era in eras[1:]), ENDLESS]
    for era, end in zip(eras, ends, strict=True):
        start = era.start
        while start < end:
            stretch = stretch_from(era.schedule, start, counts)
            yield stretch
            start = min(stretch.stop, end)
            counts = stretch.counts(start)


def stretch_from(schedule: Schedule, start: int, before: Counts) -> Stretch | Knot:
    """The samples from `start`, where the counts are `before` [M], to the next anchor; a knot where that is near.

    Counts at the end are tried until it goes on well from there.
    """
    stop = schedule.next_anchor(start) or ENDLESS
    knot = stop < start + LEAF
    stop = start + LEAF if knot else stop
    ends = [counts_at_end(schedule, start, stop, before, ahead) for ahead in AHEAD]
    for after in ends:
        stretch = (
            Knot.to(schedule, start, stop, before, after) if knot else Stretch(schedule, start, stop, before, after)
        )
        if stretch is not None and (not is_near(schedule, stop) or goes_on(schedule, stop, stop + LEAF, after)):
            return stretch
    return Knot.of(schedule, start, stop, before) if knot else Stretch(schedule, start, stop, before, ends[0])


def is_near(schedule: Schedule, sample: int) -> bool:
    """Whether an anchor follows within a leaf."""
    return (schedule.next_anchor(sample) or ENDLESS) < sample + LEAF


def counts_at_end(schedule: Schedule, start: int, stop: int, before: Counts, ahead: int) -> Counts:
    """[M] the counts before `stop`, with the domains' speeds taken over so many samples after it."""
    first, target, later = (schedule.target(sample) for sample in (start, stop, stop + ahead))
    asked = np.array([after > before for before, after in zip(first, target, strict=True)])
    return settle_end(target, later, before, np.where(asked, before + stop - start, before), stop)
