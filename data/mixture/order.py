"""The order of one domain's rows: every row once an epoch, another order each epoch, few shards open at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.mixture.epochs import Epochs, Growth, Numbers
from data.mixture.permutation import Permutations, Words, derive_key, derived_keys, shuffled

SHARDS_PER_GROUP = 8


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

    Where a domain has grown in the middle of an epoch, the groups that were begun stay, and the shards left over are
    put into a new order together with the new ones: every row still comes once before any comes again.

    Args:
        domain: its name, which the order follows from.
        shard_rows: [shards] rows of all its shards, the oldest first.
        seed: the shuffle's.
        growths: in order.
    """

    def __init__(self, domain: str, shard_rows: Numbers, seed: int, growths: Sequence[Growth] = ()) -> None:
        self.domain = domain
        self.shard_rows = np.asarray(shard_rows, np.int64)
        self.row_count = int(self.shard_rows.sum())
        self.seed = seed
        self.growths = tuple(growth for growth in growths if growth.draw > 0)
        self.epochs = Epochs(self.shard_rows, self.growths)
        self.epoch_order = lru_cache(maxsize=2)(self._epoch_order)
        self._first_row = np.cumsum(self.shard_rows) - self.shard_rows

    def shards_touched(self, draws: int) -> Numbers:
        """The shards that the first `draws` draws read from, sorted."""
        (epoch,), (place,) = self.epochs.locate(np.array([draws]))
        order = self.epoch_order(int(epoch))
        groups = int(np.searchsorted(order.group_start, place, side="left"))
        end = order.group_start[groups] if groups < len(order.group_start) else np.inf
        begun = order.shard[order.place_start < end]
        before = self.epochs.shards(int(epoch) - 1) if epoch else 0
        return np.union1d(np.arange(before), begun)

    def _epoch_order(self, epoch: int) -> EpochOrder:
        growths = self.epochs.growths(epoch)
        sizes = [*(shards for _, shards in growths), self.epochs.shards(epoch)]
        shard, key = self._shuffled(np.arange(sizes[0]), epoch)
        group = np.arange(0, len(shard), SHARDS_PER_GROUP)  # which of `shard` is each group's first
        for (place, before), after in zip(growths, sizes[1:], strict=True):
            begun = int(np.searchsorted(self._place_start(shard)[group], place, side="left"))
            kept = int(group[begun]) if begun < len(group) else len(shard)
            left, keys = self._shuffled(np.concatenate([shard[kept:], np.arange(before, after)]), epoch, after)
            shard, key = np.concatenate([shard[:kept], left]), np.concatenate([key[:begun], keys])
            group = np.concatenate([group[:begun], np.arange(kept, len(shard), SHARDS_PER_GROUP)])
        place_start = self._place_start(shard)
        group_start = place_start[group]
        permutations = Permutations.of(np.diff(group_start, append=self.shard_rows[shard].sum()), key)
        return EpochOrder(shard, self._first_row[shard], place_start, group_start, permutations)

    def _shuffled(self, shards: Numbers, *part: int) -> tuple[Numbers, Words]:
        """These shards in the order of this part of the run, and a key for each group of them."""
        order = shuffled(len(shards), derive_key("shards", self.seed, self.domain, *part))
        groups = -(-len(shards) // SHARDS_PER_GROUP)
        return shards[order], derived_keys(groups, "rows", self.seed, self.domain, *part)

    def _place_start(self, shard: Numbers) -> Numbers:
        rows = self.shard_rows[shard]
        return np.cumsum(rows) - rows


def epochs_of(order: DomainOrder, draws: int) -> float:
    """How many epochs of a domain so many draws are."""
    return float(order.epochs.done(np.array(draws)))


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
        epoch[mine], row[mine] = order.epochs.locate(draw[mine])
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
