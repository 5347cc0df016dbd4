"""The order of one domain's rows: every row once an epoch, another order each epoch, few shards open at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.mixture.permutation import derive_key, permute, shuffled

SHARDS_PER_GROUP = 8


@dataclass(frozen=True)
class EpochOrder:
    """One epoch of a domain: its shards in a new order, cut into groups; rows are shuffled within a group.

    Attributes:
        row_start: [shards] first row of each shard, in this epoch's order of shards.
        place_start: [shards + 1] where each shard begins in this epoch.
        group_start: [groups + 1] where each group begins in this epoch.
        group_key: [groups] the key of each group's permutation.
    """

    row_start: NDArray[np.int64]
    place_start: NDArray[np.int64]
    group_start: NDArray[np.int64]
    group_key: NDArray[np.uint64]

    def rows(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows at these places of the epoch."""
        group = np.searchsorted(self.group_start, place, side="right") - 1
        start = self.group_start[group]
        inside = permute(place - start, self.group_start[group + 1] - start, self.group_key[group])
        shuffled_place = start + inside
        shard = np.searchsorted(self.place_start, shuffled_place, side="right") - 1
        return self.row_start[shard] + shuffled_place - self.place_start[shard]


class DomainOrder:
    """Which row of a domain is drawn at its k-th draw, for ever.

    At most 2 * SHARDS_PER_GROUP shards of the domain are in use at once (two groups, where one ends and the next
    begins).
    """

    def __init__(self, domain: str, shard_rows: NDArray[np.int64], seed: int) -> None:
        self.domain = domain
        self.shard_rows = np.asarray(shard_rows, np.int64)
        self.row_count = int(self.shard_rows.sum())
        self.seed = seed
        self.epoch_order = lru_cache(maxsize=2)(self._epoch_order)

    def draw(self, draws: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(epoch, row) of each draw, both of the shape of `draws`."""
        epoch, place = np.divmod(draws, self.row_count)
        row = np.empty_like(place)
        for number in np.unique(epoch):
            chosen = epoch == number
            row[chosen] = self.epoch_order(int(number)).rows(place[chosen])
        return epoch, row

    def _epoch_order(self, epoch: int) -> EpochOrder:
        key = derive_key("shards", self.seed, self.domain, epoch)
        order = shuffled(len(self.shard_rows), key)
        place_start = np.concatenate([[0], self.shard_rows[order].cumsum()])
        group_start = np.append(place_start[:-1:SHARDS_PER_GROUP], self.row_count)
        group_key = [derive_key("rows", self.seed, self.domain, epoch, group) for group in range(len(group_start) - 1)]
        first_row = np.concatenate([[0], self.shard_rows.cumsum()[:-1]])
        return EpochOrder(first_row[order], place_start, group_start, np.array(group_key, np.uint64))
