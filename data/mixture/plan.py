"""The plan: which domain, epoch and row every sample of a run is. A pure function of the curriculum, the shards' row
counts, the seed and the sample index. Nothing here is imported but NumPy and the standard library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.mixture.epochs import Growth
from data.mixture.order import SHARDS_PER_GROUP, DomainOrder, draw_rows
from data.mixture.piece import LEAF
from data.mixture.schedule import WEIGHT_UNIT, Schedule
from data.mixture.timeline import Era, Timeline

# A change of anything that moves a sample is a new version: runs that were started under another one must not go on.
ORDER_VERSION = 3

SAMPLE = np.dtype([("sample", np.int64), ("domain", np.int32), ("epoch", np.int32), ("row", np.int64)])

SAMPLES_AT_ONCE = 1 << 16  # worked out together: enough for NumPy, little enough for the processor's cache


class Plan:
    """The curriculum worked out for given datasets.

    Args:
        schedule: the weights of every domain at every sample.
        shard_rows: for each domain, the rows (samples) of its shards in order.
        seed: the shuffle's seed.
        past: curricula that were followed before this one, each from its start to the next one's, the first from 0.
            What they delivered stays as it was and counts, also where a domain had fewer shards then.
        since: the sample from which on `schedule` is followed; 0 without a past.

    Raises:
        ValueError: a domain of positive weight has no rows.
    """

    def __init__(
        self,
        schedule: Schedule,
        shard_rows: Mapping[str, Sequence[int] | NDArray[np.int64]],
        seed: int,
        past: Sequence[Era] = (),
        since: int = 0,
    ) -> None:
        empty = [domain for domain in schedule.domains if not np.sum(shard_rows.get(domain, ()))]
        if empty:
            raise ValueError(f"domain {empty[0]!r} has a weight but no data")
        self.schedule = schedule
        self.seed = seed
        self.domains = schedule.domains
        self.eras = (*past, Era(since, schedule))
        self._timeline = Timeline(self.eras)
        self.orders = [
            DomainOrder(name, np.asarray(shard_rows[name], np.int64), seed, list(self._growths(name, shard_rows)))
            for name in self.domains
        ]

    @property
    def fingerprint(self) -> str:
        """Changes whenever the place of any sample could change."""
        content = {
            "order_version": ORDER_VERSION,
            "leaf": LEAF,
            "shards_per_group": SHARDS_PER_GROUP,
            "seed": self.seed,
            "eras": [{"start": era.start, "schedule": asdict(era.schedule)} for era in self.eras],
            "rows": [order.shard_rows.tolist() for order in self.orders],
        }
        if any(order.growths for order in self.orders):
            content["growths"] = [[asdict(growth) for growth in order.growths] for order in self.orders]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __reduce__(self) -> tuple:
        shard_rows = {order.domain: order.shard_rows for order in self.orders}
        return Plan, (self.schedule, shard_rows, self.seed, self.eras[:-1], self.eras[-1].start)

    def __getitem__(self, samples: slice) -> NDArray[np.void]:
        """Samples `start:stop` as a structured array with the fields of SAMPLE."""
        if samples.step not in (None, 1) or samples.stop is None:
            raise ValueError("a plan is read in ranges, such as plan[1000:2000]")
        start = samples.start or 0
        parts = [
            self.read(np.arange(low, min(low + SAMPLES_AT_ONCE, samples.stop)))
            for low in range(start, samples.stop, SAMPLES_AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.empty(0, SAMPLE)

    def read(self, index: ArrayLike) -> NDArray[np.void]:
        """The samples at these indices, in ascending order, as a structured array of their shape.

        Indices that lie close together, or many at once, cost much less than one after another.
        """
        sample = np.asarray(index, np.int64)
        samples = np.empty(sample.size, SAMPLE)
        samples["sample"] = flat = sample.ravel()
        draw = np.empty(sample.size, np.int64)
        for part in self._parts(flat):
            samples["domain"][part], draw[part] = self._timeline.at(int(flat[part][0])).draws(flat[part])
        samples["epoch"], samples["row"] = draw_rows(self.orders, samples["domain"], draw)
        return samples.reshape(sample.shape)

    def delivered(self, sample: int) -> NDArray[np.int64]:
        """[domains] samples of each domain among the samples before `sample`."""
        return self._timeline.counts(sample).copy()

    def weights(self, sample: int) -> NDArray[np.float64]:
        """[domains] the weights asked for at `sample`; they sum to 1."""
        era = next(era for era in reversed(self.eras) if era.start <= sample)
        return np.asarray(era.schedule.weights_at(sample)) / WEIGHT_UNIT

    def asked(self, start: int, stop: int) -> NDArray[np.float64]:
        """[domains] the mean weights asked for over samples `start <= n < stop`."""
        total = np.zeros(len(self.domains))
        edges = [*(era.start for era in self.eras), stop]
        for era, end in zip(self.eras, edges[1:], strict=True):
            low, high = max(start, era.start), min(stop, end)
            if low < high:
                before, after = era.schedule.target(low), era.schedule.target(high)
                total += [(late - early) / WEIGHT_UNIT for early, late in zip(before, after, strict=True)]
        return total / (stop - start)

    def _growths(self, domain: str, shard_rows: Mapping[str, Any]) -> Iterator[Growth]:
        """Each time that the domain had more shards than before, by its draws until then."""
        for era, following in pairwise(self.eras):
            now = following.shards.get(domain, len(shard_rows[domain]))
            if (before := era.shards.get(domain, now)) < now:
                draws = self._timeline.counts(following.start)[self.domains.index(domain)]
                yield Growth(int(draws), before)

    def _parts(self, sample: NDArray[np.int64]) -> Iterator[slice]:
        """Stretches of the ascending samples that lie in one piece each."""
        low = 0
        while low < len(sample):
            stop = self._timeline.stop(self._timeline.at(int(sample[low])))
            high = int(np.searchsorted(sample, stop))
            yield slice(low, high)
            low = high
