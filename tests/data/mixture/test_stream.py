"""The plan's order, as Streaming's own machinery delivers it; and the private seams of Streaming that this rests on."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from streaming import MDSWriter, StreamingDataLoader
from streaming.base import dataset as streaming_dataset

from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise
from data.mixture.stream import CurriculumDataset, PlacedSample, WorkerSamples, WorkerShare

DOMAINS = ("web", "code")
ROWS = 300


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real MDS shards, in which row r of domain d holds the token 1000 d + r."""
    root = tmp_path_factory.mktemp("mds")
    for number, name in enumerate(DOMAINS):
        columns = {"tokens": "ndarray:uint16:8"}
        with MDSWriter(out=str(root / name), columns=columns, size_limit=1000, hashes=["xxh64"]) as writer:
            for row in range(ROWS):
                writer.write({"tokens": np.full(8, 1000 * number + row, np.uint16)})
    return [root / name for name in DOMAINS]


@pytest.fixture(scope="module")
def plan(folders: list[Path]) -> Plan:
    """Crosses an anchor, a ramp and several epochs within 1,000 samples."""
    start = quantise({"web": 0.8, "code": 0.2}, DOMAINS)
    stop = quantise({"web": 0.2, "code": 0.8}, DOMAINS)
    schedule = Schedule(DOMAINS, (ScheduleAnchor(0, start), ScheduleAnchor(500, stop, "linear")))
    rows = {}
    for folder in folders:
        shards = json.loads((folder / "index.json").read_text())["shards"]
        rows[folder.name] = [shard["samples"] for shard in shards]
    return Plan(schedule, rows, seed=17)


def expected_tokens(plan: Plan, start: int, stop: int) -> NDArray[np.int64]:
    places = plan[start:stop]
    return places["domain"] * 1000 + places["row"]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_samples_come_in_the_plans_order(plan: Plan, folders: list[Path], workers: int) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=8)
    state = {"epoch": 0, "sample_in_epoch": 40, "num_canonical_nodes": 1, "shuffle_seed": 9176}
    dataset.load_state_dict(state)
    batches = iter(StreamingDataLoader(dataset, batch_size=8, num_workers=workers))
    read = [next(batches) for _ in range(100)]
    assert np.concatenate([batch["sample"] for batch in read]).tolist() == list(range(40, 840))
    assert (np.concatenate([batch["tokens"][:, 0] for batch in read]) == expected_tokens(plan, 40, 840)).all()
    assert (np.concatenate([batch["domain"] for batch in read]) == plan[40:840]["domain"]).all()
    assert (np.concatenate([batch["epoch"] for batch in read]) == plan[40:840]["epoch"]).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("start", [0, 13, 192])
def test_every_layout_reads_the_same_global_batches(plan: Plan, ranks: int, workers: int, start: int) -> None:
    steps, batch = workers * 2, 192
    device_batch = batch // ranks
    seen = np.full((steps, batch), -1)
    for rank in range(ranks):
        for worker in range(workers):
            share = WorkerShare(start, device_batch, rank, ranks, worker, workers)
            samples = WorkerSamples(plan, share, {0: 0, 1: 1000})
            for turn in range(2):
                ids = [samples[turn * device_batch + place] for place in range(device_batch)]
                step = turn * workers + worker
                seen[step, rank * device_batch : (rank + 1) * device_batch] = ids
    assert (seen.reshape(-1) == expected_tokens(plan, start, start + steps * batch)).all()


def test_a_worker_far_into_a_long_run_starts_at_once(plan: Plan) -> None:
    samples = WorkerSamples(plan, WorkerShare(1_000_000, 16, 3, 8, 1, 2), {0: 0, 1: 1000})
    assert len(samples) > 10**12
    sample = samples[5]
    assert isinstance(sample, PlacedSample)
    assert int(sample.place["sample"]) == 1_000_000 + (1 * 8 + 3) * 16 + 5


def test_state_counts_samples_of_the_plan(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=4)
    iterator = iter(StreamingDataLoader(dataset, batch_size=4))
    next(iterator)
    assert dataset.state_dict(num_samples=4, from_beginning=True)["sample_in_epoch"] == 4


def test_streaming_still_has_the_seams_that_we_use() -> None:
    source = inspect.getsource(streaming_dataset.StreamingDataset.__iter__)
    assert "sample_ids = self._get_work(epoch, sample_in_epoch)" in source
    assert "map(self.__getitem__, self._each_sample_id(it))" in source
    uses = inspect.getsource(streaming_dataset._Iterator.__init__)
    assert "len(sample_ids)" in uses
    assert list(inspect.signature(streaming_dataset.StreamingDataset.get_item).parameters) == [
        "self",
        "sample_id",
        "retry",
    ]
