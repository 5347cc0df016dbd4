"""Where the epochs of a domain begin, if it grows in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Growth:
    """New shards came after those that a domain had: it had `shards` until draw number `draw`, which could be new."""

    draw: int
    shards: int


class Epochs:
    """Where each epoch of a domain begins, how many shards it goes over, and which of these it began with.

    A domain that grows in the middle of an epoch gives its new shards in that epoch, which becomes longer by them.

    Args:
        shard_rows: [shards] rows of all the domain's shards, the oldest first.
        growths: in order.
    """

    def __init__(self, shard_rows: Numbers, growths: Sequence[Growth] = ()) -> None:
        rows = np.concatenate([[0], np.cumsum(shard_rows)])
        sizes = [*(growth.shards for growth in growths), len(shard_rows)]
        # Stretches of epochs of one size: (first draw, first epoch, shards).
        stretches = [(0, 0, sizes[0])]
        self._cuts: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for growth, shards in zip(growths, sizes[1:], strict=True):
            first, epoch, before = stretches[-1]
            turn, place = divmod(growth.draw - first, int(rows[before]))
            if place:
                self._cuts[epoch + turn].append((place, before))
            if turn == 0:  # the stretch has no epoch that ended before
                stretches.pop()
            stretches.append((growth.draw - place, epoch + turn, shards))
        self._first_draw, self._first_epoch, self._shards = np.array(stretches, np.int64).T
        self._rows = rows[self._shards]

    def locate(self, draw: Numbers) -> tuple[Numbers, Numbers]:
        """(epoch, place in it) of these draws."""
        if len(self._rows) == 1:
            return np.divmod(draw, self._rows[0])
        stretch = np.searchsorted(self._first_draw, draw, side="right") - 1
        turn, place = np.divmod(draw - self._first_draw[stretch], self._rows[stretch])
        return self._first_epoch[stretch] + turn, place

    def begin(self, epoch: int) -> int:
        """The first draw of an epoch."""
        stretch = self._stretch(epoch)
        turn = epoch - int(self._first_epoch[stretch])
        return int(self._first_draw[stretch]) + turn * int(self._rows[stretch])

    def done(self, draws: Numbers) -> NDArray[np.float64]:
        """How many epochs so many draws are, with the part of the last one."""
        epoch, place = self.locate(draws)
        stretch = np.searchsorted(self._first_epoch, epoch, side="right") - 1
        return epoch + place / self._rows[stretch]

    def shards(self, epoch: int) -> int:
        """How many shards an epoch goes over."""
        return int(self._shards[self._stretch(epoch)])

    def growths(self, epoch: int) -> list[tuple[int, int]]:
        """(place, shards that it had before) of each growth in an epoch, after its beginning."""
        return self._cuts.get(epoch, [])

    def _stretch(self, epoch: int) -> int:
        return int(np.searchsorted(self._first_epoch, epoch, side="right")) - 1
