"""The plan: which domain, epoch and row every sample of a run is. A pure function of the curriculum, the shards' row
counts, the seed and the sample index. Nothing here is imported but NumPy and the standard library.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.mixture.order import SHARDS_PER_GROUP, DomainOrder
from data.mixture.schedule import WEIGHT_UNIT, Block, Schedule

# A change of anything that moves a sample is a new version: runs that were started under another one must not go on.
ORDER_VERSION = 1

SAMPLE = np.dtype([("sample", np.int64), ("domain", np.int32), ("epoch", np.int32), ("row", np.int64)])

# Targets are counted in halves of a weight unit, so that the mean of two whole weights is whole.
TARGET_UNIT = 2 * WEIGHT_UNIT


# The plan remembers where it stood at every 64th block and works the blocks between out again when asked.
BLOCKS_PER_GROUP = 64


@dataclass(frozen=True)
class PlanState:
    """Where a plan stands before sample `sample`: the exact target, in TARGET_UNITs, and the draws, [domains] each."""

    sample: int
    target: tuple[int, ...]
    drawn: tuple[int, ...]


@dataclass(frozen=True)
class PlannedBlock:
    """A block with the draws that each domain has had before it and after it, [domains] each."""

    block: Block
    before: tuple[int, ...]
    after: tuple[int, ...]
    state_after: PlanState


class Plan:
    """The curriculum worked out for given datasets.

    Args:
        schedule: the weights of every domain at every sample.
        shard_rows: for each domain, the rows (samples) of its shards in order.
        seed: the shuffle's seed.

    Raises:
        ValueError: a domain of positive weight has no rows.
    """

    def __init__(self, schedule: Schedule, shard_rows: Mapping[str, Sequence[int]], seed: int) -> None:
        empty = [domain for domain in schedule.domains if not sum(shard_rows.get(domain, ()))]
        if empty:
            raise ValueError(f"domain {empty[0]!r} has a weight but no data")
        self.schedule = schedule
        self.seed = seed
        self.domains = schedule.domains
        self.orders = [DomainOrder(name, np.asarray(shard_rows[name], np.int64), seed) for name in self.domains]
        nothing = (0,) * len(self.domains)
        self._states = [PlanState(0, nothing, nothing)]  # at the start of each group that has been reached
        self._group = lru_cache(maxsize=4)(self._work_out_group)
        self._domains_of_block = lru_cache(maxsize=8)(domains_of_block)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the place of any sample could change."""
        content = {
            "order_version": ORDER_VERSION,
            "shards_per_group": SHARDS_PER_GROUP,
            "seed": self.seed,
            "schedule": asdict(self.schedule),
            "rows": [order.shard_rows.tolist() for order in self.orders],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __reduce__(self) -> tuple:
        # What is worked out already stays behind: it is cheaper to do again than to send to a worker process.
        shard_rows = {order.domain: order.shard_rows.tolist() for order in self.orders}
        return Plan, (self.schedule, shard_rows, self.seed)

    def __getitem__(self, samples: slice) -> NDArray[np.void]:
        """Samples `start:stop` as a structured array with the fields of SAMPLE."""
        if samples.step not in (None, 1) or samples.stop is None:
            raise ValueError("a plan is read in ranges, such as plan[1000:2000]")
        start = samples.start or 0
        parts = [self._read_block(block, start, samples.stop) for block in self.blocks(start, samples.stop)]
        return np.concatenate(parts) if parts else np.empty(0, SAMPLE)

    def blocks(self, start: int, stop: int) -> Iterator[PlannedBlock]:
        """The planned blocks that hold samples `start <= n < stop`."""
        self._reach(start)
        group = bisect_right(self._states, start, key=lambda state: state.sample) - 1
        while start < stop:
            for planned in self._group(group):
                if start < planned.block.stop and planned.block.start < stop:
                    yield planned
                    start = planned.block.stop
            group += 1

    def delivered(self, sample: int) -> NDArray[np.int64]:
        """[domains] draws of each domain among the samples before `sample`."""
        if sample == 0:
            return np.zeros(len(self.domains), np.int64)
        planned = next(self.blocks(sample - 1, sample))
        domain = self._domains_of_block(planned)[: sample - planned.block.start]
        return np.asarray(planned.before) + np.bincount(domain, minlength=len(self.domains))

    def weights(self, sample: int) -> NDArray[np.float64]:
        """[domains] the weights asked for at `sample`; they sum to 1."""
        return np.asarray(self.schedule.weights_at(sample)) / WEIGHT_UNIT

    def asked(self, start: int, stop: int) -> NDArray[np.float64]:
        """[domains] the mean weights asked for over samples `start <= n < stop`."""
        total = np.zeros(len(self.domains))
        for planned in self.blocks(start, stop):
            low, high = max(start, planned.block.start), min(stop, planned.block.stop)
            total += target_between(planned.block, low, high)
        return total / (stop - start)

    def _reach(self, sample: int) -> None:
        """Know the state at the start of the group that holds `sample`."""
        while self._states[-1].sample <= sample:
            self._group(len(self._states) - 1)

    def _work_out_group(self, group: int) -> list[PlannedBlock]:
        blocks = list(itertools.islice(plan_blocks(self.schedule, self._states[group]), BLOCKS_PER_GROUP))
        if group + 1 == len(self._states):
            self._states.append(blocks[-1].state_after)
        return blocks

    def _read_block(self, planned: PlannedBlock, start: int, stop: int) -> NDArray[np.void]:
        block = planned.block
        low, high = max(start, block.start) - block.start, min(stop, block.stop) - block.start
        domains = self._domains_of_block(planned)
        samples = np.empty(high - low, SAMPLE)
        samples["sample"] = np.arange(block.start + low, block.start + high)
        samples["domain"] = domains[low:high]
        for number, order in enumerate(self.orders):
            drawn_before = planned.before[number] + np.count_nonzero(domains[:low] == number)
            chosen = samples["domain"] == number
            draws = drawn_before + np.arange(np.count_nonzero(chosen))
            samples["epoch"][chosen], samples["row"][chosen] = order.draw(draws)
        return samples


def plan_blocks(schedule: Schedule, state: PlanState) -> Iterator[PlannedBlock]:
    """The blocks from `state` on with the draws before and after each, without end.

    The counts are apportioned on the *running* target, so that a remainder is carried and never lost.
    """
    for block in schedule.blocks(state.sample):
        length = block.stop - block.start
        shares = [(first + last) * length for first, last in zip(block.first, block.last, strict=True)]
        target = tuple(total + share for total, share in zip(state.target, shares, strict=True))
        after = tuple(draws_after(target, state.drawn, shares, block.stop))
        before, state = state.drawn, PlanState(block.stop, target, after)
        yield PlannedBlock(block, before, after, state)


def draws_after(target: Sequence[int], drawn: Sequence[int], shares: Sequence[int], total: int) -> list[int]:
    """Draws of each domain up to a block's end: within 1 of the target, never fewer than before, `total` together.

    A domain without a share in this block is not drawn, whatever it is owed.
    """
    active = [i for i, share in enumerate(shares) if share > 0]
    after = list(drawn)
    for i in active:
        after[i] = max(drawn[i], target[i] // TARGET_UNIT)
    missing = total - sum(after)
    step = 1 if missing > 0 else -1
    while missing:
        movable = [i for i in active if step > 0 or after[i] > drawn[i]]
        most_owed = max(movable, key=lambda i: (step * (target[i] - after[i] * TARGET_UNIT), -i))
        after[most_owed] += step
        missing -= step
    return after


def target_between(block: Block, low: int, high: int) -> NDArray[np.float64]:
    """[domains] the samples asked for in `low <= n < high` inside a block: the integral of a straight line."""
    length = block.stop - block.start
    first, last = np.asarray(block.first, np.float64), np.asarray(block.last, np.float64)
    middle = first + (last - first) * ((low + high) / 2 - block.start) / length
    return middle * (high - low) / WEIGHT_UNIT


def domains_of_block(planned: PlannedBlock) -> NDArray[np.int32]:
    """[samples of the block] the domain of each sample, spread as the weights ask.

    Draw j of the n that a domain has in this block is due where the integral of its weight reaches (j + 1/2) / n of
    the whole; samples are the draws in the order in which they are due. Only correctly rounded operations (+ - * /
    sqrt) are used, so the order is the same on every machine.
    """
    length = planned.block.stop - planned.block.start
    due, domain = [], []
    for number, (first, last) in enumerate(zip(planned.block.first, planned.block.last, strict=True)):
        count = planned.after[number] - planned.before[number]
        share = (np.arange(count, dtype=np.float64) + 0.5) / max(count, 1)
        # share = (first x + (last - first) x^2 / 2) / ((first + last) / 2), solved for x in 0..1
        under_root = float(first * first) + share * float(last * last - first * first)
        x = share * float(first + last) / (float(first) + np.sqrt(under_root))
        due.append(x * length)
        domain.append(np.full(count, number, np.int32))
    return np.concatenate(domain)[np.argsort(np.concatenate(due), kind="stable")]
