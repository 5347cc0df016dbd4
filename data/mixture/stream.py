"""A Streaming dataset that reads its samples in the order of a plan.

Streaming keeps what it is good at (download, cache, prefetch, hashes, worker processes, state). This class only tells
it which sample comes next, lazily: nothing is worked out for more than a few batches at a time.

Private seams of mosaicml-streaming 0.13 used here: `_get_work` returns what `_Iterator` reads by `len(ids)` and
`ids[i]` from three threads, and `__iter__` calls `self[sample_id]` for each. tests/data/mixture/test_stream.py watches
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from streaming import Stream, StreamingDataset
from streaming.base.world import World

from data.mixture.plan import Plan

# The run ends by its own max_duration; the stream itself does not end. 2^40 samples of 2,048 tokens are 2 x 10^15.
ENDLESS = 1 << 40


class PlacedSample(int):
    """A sample's id in Streaming (an int), which also knows its place in the plan."""

    place: np.void


@dataclass(frozen=True)
class WorkerShare:
    """Which samples of the plan a dataloader worker reads.

    Global batches follow one another from `start`; rank r of R has the r-th part of each; worker w of W of a rank
    prepares its batches w, w + W, w + 2W, ...

    Attributes:
        start: the first sample of the plan that this process is to read.
        device_batch_size: samples a rank takes from each global batch.
    """

    start: int
    device_batch_size: int
    rank: int
    ranks: int
    worker: int
    workers: int

    def batch_start(self, batch: int) -> int:
        """The first sample in the plan of this worker's `batch`-th batch."""
        step = batch * self.workers + self.worker
        return self.start + (step * self.ranks + self.rank) * self.device_batch_size


class WorkerSamples(Sequence[int]):
    """The ids of all the samples that one worker will read, worked out a batch at a time, when asked."""

    def __init__(self, plan: Plan, share: WorkerShare, first_id: dict[int, int]) -> None:
        self.plan = plan
        self.share = share
        self.first_id = first_id
        self._lock = Lock()
        self._batch = lru_cache(maxsize=256)(self._read_batch)

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self.share.device_batch_size)
        return self._batch(batch)[place]

    def _read_batch(self, batch: int) -> list[PlacedSample]:
        start = self.share.batch_start(batch)
        with self._lock:  # Streaming asks from three threads, and a plan works out its blocks as it goes
            places = self.plan[start : start + self.share.device_batch_size]
        return [self._placed(place) for place in places]

    def _placed(self, place: np.void) -> PlacedSample:
        sample = PlacedSample(self.first_id[int(place["domain"])] + int(place["row"]))
        sample.place = place
        return sample


class CurriculumDataset(StreamingDataset):
    """Samples of several domains in the order of `plan`.

    A sample is a dict: `tokens` int64 [max_seq_len], `domain` (number in plan.domains), `epoch` of that domain, and
    `sample`, the index in the plan.

    Args:
        plan: the order.
        folders: for each domain of the plan, the folder of its MDS shards.
        device_batch_size: samples a rank takes from each global batch.
    """

    def __init__(self, plan: Plan, folders: Sequence[Path], device_batch_size: int, **streaming: Any) -> None:
        super().__init__(
            streams=[Stream(local=str(folder)) for folder in folders],
            batch_size=device_batch_size,
            num_canonical_nodes=1,  # part of Streaming's saved state; the order does not depend on it
            shuffle=False,
            **streaming,
        )
        self.plan = plan
        self.epoch_size = ENDLESS
        self.length = ENDLESS // World.detect().num_ranks

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Any:
        world = self._parallel_worker_world
        assert isinstance(self.batch_size, int)
        share = WorkerShare(
            start=sample_in_epoch,
            device_batch_size=self.batch_size,
            rank=world.rank,
            ranks=world.num_ranks,
            worker=world.worker_of_rank,
            workers=world.workers_per_rank,
        )
        first_id = {number: int(offset) for number, offset in enumerate(self.sample_offset_per_stream)}
        return WorkerSamples(self.plan, share, first_id)

    def get_item(self, sample_id: int, retry: int = 7) -> dict[str, Any]:
        """The sample with this id, with its place in the plan."""
        sample = super().get_item(sample_id, retry)
        sample["tokens"] = sample["tokens"].astype(np.int64)
        if isinstance(sample_id, PlacedSample):
            sample.update({name: int(sample_id.place[name]) for name in ("domain", "epoch", "row", "sample")})
        return sample
