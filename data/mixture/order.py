"""The order of one domain's rows: every row once an epoch, another order each epoch, few shards open at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.mixture.permutation import Permutations, derive_key, derived_keys, shuffled

SHARDS_PER_GROUP = 8

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class EpochOrder:
    """One epoch of a domain: its shards in a new order, cut into groups; rows are shuffled within a group.

    Attributes:
        shard: [shards] the shards in this epoch's order.
        row_start: [shards] first row of each of them.
        place_start: [shards] where each of them begins in this epoch.
        group_start: [groups] where each group begins in this epoch.
        permutations: [groups] of the places of each group.
    """

    shard: Numbers
    row_start: Numbers
    place_start: Numbers
    group_start: Numbers
    permutations: Permutations

    def row(self, place: Numbers) -> Numbers:
        """The rows at these places of the epoch, already shuffled within their groups."""
        shard = np.searchsorted(self.place_start, place, side="right") - 1
        return self.row_start[shard] + place - self.place_start[shard]


class DomainOrder:
    """Which row of a domain is drawn at its k-th draw, for ever.

    At most 2 * SHARDS_PER_GROUP shards of the domain are in use at once (two groups, where one ends and the next
    begins).
    """

    def __init__(self, domain: str, shard_rows: Numbers, seed: int) -> None:
        self.domain = domain
        self.shard_rows = np.asarray(shard_rows, np.int64)
        self.row_count = int(self.shard_rows.sum())
        self.seed = seed
        self.epoch_order = lru_cache(maxsize=2)(self._epoch_order)
        self._first_row = np.cumsum(self.shard_rows) - self.shard_rows

    def shards_touched(self, draws: int) -> Numbers:
        """The shards that the first `draws` draws read from, sorted."""
        if draws >= self.row_count:
            return np.arange(len(self.shard_rows))
        order = self.epoch_order(0)
        groups = int(np.searchsorted(order.group_start, draws, side="left"))
        return np.sort(order.shard[: groups * SHARDS_PER_GROUP])

    def _epoch_order(self, epoch: int) -> EpochOrder:
        shard = shuffled(len(self.shard_rows), derive_key("shards", self.seed, self.domain, epoch))
        rows = self.shard_rows[shard]
        place_start = np.cumsum(rows) - rows
        group_start = place_start[::SHARDS_PER_GROUP]
        keys = derived_keys(len(group_start), "rows", self.seed, self.domain, epoch)
        permutations = Permutations.of(np.diff(group_start, append=self.row_count), keys)
        return EpochOrder(shard, self._first_row[shard], place_start, group_start, permutations)


def draw_rows(orders: Sequence[DomainOrder], domain: NDArray[np.int32], draw: Numbers) -> tuple[Numbers, Numbers]:
    """(epoch, row) of draw number `draw` of each `domain` (an index of `orders`); all of one shape [N]."""
    by_domain = np.argsort(domain.astype(np.uint16), kind="stable")
    edges = np.searchsorted(domain[by_domain], np.arange(len(orders) + 1))
    epoch, row = np.empty_like(draw), np.empty_like(draw)
    parts, starts, permutations = [], [], []
    for number, order in enumerate(orders):
        mine = by_domain[edges[number] : edges[number + 1]]
        if not len(mine):
            continue
        epoch[mine], row[mine] = np.divmod(draw[mine], order.row_count)
        for turn in unique(epoch[mine]):
            part = mine[epoch[mine] == turn]
            epoch_order = order.epoch_order(turn)
            group = np.searchsorted(epoch_order.group_start, row[part], side="right") - 1
            parts.append((part, epoch_order))
            starts.append(epoch_order.group_start[group])
            permutations.append(epoch_order.permutations.take(group))
    if not parts:
        return epoch, row
    # One pass for all domains: a short read costs little more for twenty domains than for one.
    every = np.concatenate([part for part, _ in parts])
    start = np.concatenate(starts)
    row[every] = start + Permutations.joined(permutations)(row[every] - start)
    for part, epoch_order in parts:
        row[part] = epoch_order.row(row[part])
    return epoch, row


def unique(values: Numbers) -> list[int]:
    """The different values; quick where they are all the same, as the epochs of a few samples mostly are."""
    low, high = int(values.min()), int(values.max())
    return [low] if low == high else np.unique(values).tolist()
