"""What one dataloader worker reads, in whole batches, worked out of the plan some way ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.mixture.plan import Plan
from data.mixture.spans import ShardSpans

# The run ends by its own max_duration; the stream itself does not end. 2^40 samples of 2,048 tokens are 2 x 10^15.
ENDLESS = 1 << 40

# Samples worked out of the plan at a time. Asking costs milliseconds, however little is asked for.
CHUNK_SAMPLES = 8192

# What Streaming skips.
NOTHING_TO_PREPARE = -1


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

    def batch_starts(self, first: int, stop: int) -> NDArray[np.int64]:
        """[stop - first] the first sample in the plan of each of this worker's batches `first <= n < stop`."""
        steps = np.arange(first, stop, dtype=np.int64) * self.workers + self.worker
        return self.start + (steps * self.ranks + self.rank) * self.device_batch_size


@dataclass(frozen=True)
class BatchPlaces:
    """Where a batch's samples stand in the plan and lie in the shards, [device_batch_size] each."""

    places: NDArray[np.void]  # with the fields of data.mixture.plan.SAMPLE
    shard: NDArray[np.int64]
    row: NDArray[np.int64]  # inside its shard


@dataclass(frozen=True)
class Chunk:
    """Consecutive batches of a worker from batch `first` on, [batches, device_batch_size] each."""

    first: int
    places: NDArray[np.void]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]
    to_prepare: list[int]  # flat: a sample of each shard that a batch needs, NOTHING_TO_PREPARE for its other samples


class WorkerSamples(Sequence[int]):
    """The sample ids of all that one worker will read, as Streaming's threads take them: one after another.

    Streaming only uses a sample's id to find and prepare its shard, so a shard is named once a batch. Batches are
    worked out in chunks, each as long as all before it together up to CHUNK_SAMPLES, so that the first comes at once.

    Args:
        first_id: [domains] the id in Streaming of each domain's first row.
    """

    def __init__(self, plan: Plan, share: WorkerShare, spans: ShardSpans, first_id: NDArray[np.int64]) -> None:
        self.plan = plan
        self.share = share
        self.spans = spans
        self.first_id = first_id
        self._doublings = max(0, (CHUNK_SAMPLES // share.device_batch_size).bit_length() - 1)
        self._chunks: dict[int, Chunk] = {}
        self._lock = Lock()  # Streaming asks from three threads; a chunk is worked out once, and the plan is not shared

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: Any) -> Any:
        batch, place = divmod(index, self.share.device_batch_size)
        chunk = self._chunk_of(batch)
        return chunk.to_prepare[(batch - chunk.first) * self.share.device_batch_size + place]

    def batch(self, number: int) -> BatchPlaces:
        """This worker's `number`-th batch."""
        chunk = self._chunk_of(number)
        at = number - chunk.first
        return BatchPlaces(chunk.places[at], chunk.shard[at], chunk.row[at])

    def forget_before(self, batch: int) -> None:
        """Let go of chunks that end before `batch`; nobody will ask for them."""
        for number in [number for number in list(self._chunks) if self._chunk_range(number)[1] <= batch]:
            del self._chunks[number]

    def _chunk_of(self, batch: int) -> Chunk:
        number = self._chunk_number(batch)
        chunk = self._chunks.get(number)
        if chunk is None:
            with self._lock:
                chunk = self._chunks.get(number)
                if chunk is None:
                    chunk = self._chunks[number] = self._work_out(*self._chunk_range(number))
        return chunk

    def _chunk_number(self, batch: int) -> int:
        """0 for batch 0, then 1, 2, 4, ... batches a chunk, up to 2^doublings batches."""
        longest = 1 << self._doublings
        return batch.bit_length() if batch < longest else self._doublings + batch // longest

    def _chunk_range(self, number: int) -> tuple[int, int]:
        """(first, stop) of the batches in a chunk."""
        if number <= self._doublings:
            return (1 << number) >> 1, 1 << number
        longest = 1 << self._doublings
        return (number - self._doublings) * longest, (number - self._doublings + 1) * longest

    def _work_out(self, first: int, stop: int) -> Chunk:
        starts = self.share.batch_starts(first, stop)
        places = self.plan.read(starts[:, None] + np.arange(self.share.device_batch_size))
        sample_ids = self.first_id[places["domain"]] + places["row"]
        shard, row = self.spans.locate(sample_ids)
        to_prepare = np.where(first_in_its_row(shard), sample_ids, NOTHING_TO_PREPARE)
        return Chunk(first, places, shard, row, to_prepare.ravel().tolist())


def first_in_its_row(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True where a value of a 2-D array comes for the first time in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    in_order = np.take_along_axis(values, order, axis=1)
    new = np.ones(values.shape, bool)
    new[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    first = np.empty(values.shape, bool)
    np.put_along_axis(first, order, new, axis=1)
    return first
