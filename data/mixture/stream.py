"""A Streaming dataset that reads its samples in the order of a plan.

Streaming keeps what it is good at: download, cache, eviction, prefetch, hashes, worker processes, state. This class
tells it which samples come next, lazily, and takes whole batches out of the shards once they are there.

Private seams of mosaicml-streaming 0.13 used here: `_get_work` returns what `_Iterator` and `_prepare_thread` read by
`len(ids)` and `ids[i]`; `__iter__` starts `_prepare_thread` and `_ready_thread` and calls `self[item]` for each item of
`_each_sample_id`; `on_exception` hears of a thread's end; `_shard_states` tells which shards are there. Two more are in
data/mixture/spans.py. tests/data/mixture/test_streaming_seams.py watches them all.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import sleep, time_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.constant import TICK
from streaming.base.dataset import _Iterator, _ShardState

from data.errors import DataError
from data.mixture.open_shards import OpenShards, SampleLayout
from data.mixture.order import SHARDS_PER_GROUP
from data.mixture.plan import Plan
from data.mixture.prepared import PreparedDataset
from data.mixture.readahead import ENDLESS, BatchPlaces, WorkerSamples, WorkerShare

# Shards of a domain that are in use at once: a group of the order ends where the next begins.
OPEN_SHARDS = 2 * SHARDS_PER_GROUP

# Samples that a worker prepares ahead unless told otherwise, at least. Streaming's threads look around every 7 ms: this
# many samples in that time is far more than any model takes.
PREDOWNLOAD = 512

# What a batch says of its samples beside their tokens.
PLACE_COLUMNS = ("domain", "epoch", "row", "sample")


class CurriculumDataset(PreparedDataset):
    """Samples of several domains in the order of `plan`, in whole batches.

    A batch is a dict of `tokens` [device_batch_size, max_seq_len], in the type in which they are stored, and of
    `domain` (number in plan.domains), `epoch` of that domain, `row` of that domain and `sample` (index in the plan),
    int64 [device_batch_size] each. Use it with a CurriculumLoader.

    Args:
        plan: the order.
        folders: for each domain of the plan, the folder of its MDS shards, or the one that they are cached in.
        device_batch_size: samples a rank takes from each global batch.
        remotes: for each domain, where Streaming fetches shards that are not in its folder; None: from nowhere.
        predownload: samples that each worker fetches ahead.
        cache_limit: bytes that the folders may hold together on this machine; see PreparedDataset.

    Raises:
        DataError: the shards were not written by `brickyard prepare`, or another process uses a folder as its cache.
    """

    def __init__(
        self,
        plan: Plan,
        folders: Sequence[Path],
        device_batch_size: int,
        *,
        remotes: Sequence[str] | None = None,
        predownload: int | None = None,
        cache_limit: int | None = None,
    ) -> None:
        super().__init__(
            folders,
            remotes,
            batch_size=device_batch_size,
            predownload=max(device_batch_size, predownload or max(PREDOWNLOAD, 8 * device_batch_size)),
            cache_limit=cache_limit,
        )
        self.plan = plan
        self.device_batch_size = device_batch_size
        self.layout = SampleLayout.of(self.shards)
        self.epoch_size = ENDLESS
        # In what is yielded, which is batches.
        self.length = ENDLESS // self._parallel_rank_world.num_ranks // device_batch_size
        self._open_shards = OpenShards(self.shards, self.layout, min(OPEN_SHARDS * len(folders), files_allowed() // 2))
        self._prepared: set[int] = set()  # shards that were checked; they are there as long as their state says so
        self._failure: BaseException | None = None

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        """Streaming's state, and which plan it counts samples of."""
        return {**super().state_dict(num_samples, from_beginning), "plan": self.plan.fingerprint}

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on from this state at the next `iter()`, whatever was read before."""
        self.next_epoch = obj["epoch"]  # Streaming ignores the state of an earlier epoch without a word
        super().load_state_dict(obj)

    def __getitem__(self, at: Any) -> Any:
        return self._read(at) if isinstance(at, BatchPlaces) else super().__getitem__(at)

    def _get_work(self, epoch: int, sample_in_epoch: int) -> Any:
        world = self._parallel_worker_world
        share = WorkerShare(
            start=sample_in_epoch,
            device_batch_size=self.device_batch_size,
            rank=world.rank,
            ranks=world.num_ranks,
            worker=world.worker_of_rank,
            workers=world.workers_per_rank,
        )
        return WorkerSamples(self.plan, share, self.spans, self.sample_offset_per_stream)

    def _ready_thread(self, it: _Iterator) -> None:
        """Counts batches as ready once all their shards are there. Streaming's own waits for ever for a shard that was
        evicted while it waited, or whose fetching failed in another process."""
        samples: Any = it.sample_ids
        states = self._shard_states.numpy()
        assert self.predownload is not None
        while not it.should_exit() and not self._event.is_set():
            if it.ready_index - it.yield_index > self.predownload:
                sleep(TICK)
                continue
            shards = set(samples.batch(it.ready_index // self.device_batch_size).shard.tolist())
            missing = [shard for shard in shards if shard not in self._prepared or states[shard] != _ShardState.LOCAL]
            for shard in missing:
                self.prepare_shard(shard, blocking=False)
            if missing:
                sleep(TICK)
            else:
                it.ready_index += self.device_batch_size
        it.on_exit()

    def _each_sample_id(self, it: _Iterator) -> Iterator[Any]:
        """Yields whole batches that are ready, where Streaming yields one sample's id."""
        samples: Any = it.sample_ids
        while not it.should_exit():
            if self._event.is_set():
                it.on_exit()
                assert self._failure is not None
                raise self._failure
            if it.ready_index <= it.yield_index:
                sleep(TICK)
                continue
            number = it.yield_index // self.device_batch_size
            samples.forget_before(number)
            yield samples.batch(number)
            it.yield_index += self.device_batch_size
        it.on_exit()

    def _read(self, batch: BatchPlaces) -> dict[str, NDArray[Any]]:
        tokens = np.empty((self.device_batch_size, self.layout.length), self.layout.dtype)
        into, size = memoryview(tokens.data).cast("B"), self.layout.bytes
        for place, (shard, row) in enumerate(zip(batch.shard.tolist(), batch.row.tolist(), strict=True)):
            opened = self._open_shards.get(shard)
            if opened is None:  # evicted in the meantime, or not a plain raw file: Streaming knows what to do
                tokens[place] = self.get_item(int(self.spans.starts[shard]) + row)["tokens"]
            else:
                end = opened.ends[row]
                into[place * size : (place + 1) * size] = opened.content[end - size : end]
        self._shard_access_times.numpy()[batch.shard] = time_ns()
        return {"tokens": tokens, **{name: batch.places[name].astype(np.int64) for name in PLACE_COLUMNS}}

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """As Streaming does, but without its file lock where a thread that goes ahead finds the shard there already.

        A reader, which blocks, has just missed the file and wants it to be looked for.
        """
        if not blocking and shard_id in self._prepared and self._shard_states[shard_id] == _ShardState.LOCAL:
            self._shard_access_times[shard_id] = time_ns()
            return
        try:
            super().prepare_shard(shard_id, blocking)
        except DataError as error:
            self._fail(error)
            raise
        if self._shard_states[shard_id] == _ShardState.LOCAL:
            self._prepared.add(shard_id)

    def on_exception(self, future: Future) -> None:
        """Streaming raises what ended a thread where nobody hears."""
        if error := future.exception():
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End all threads, and have the reader raise this."""
        self._failure = self._failure or error
        if hasattr(self, "_event"):  # which iteration makes; single samples can be read without
            self._event.set()


def files_allowed() -> int:
    """How many files a process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
