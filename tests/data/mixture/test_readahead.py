"""What a worker reads ahead: every batch once, each shard named once a batch, and no more held than is ahead."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data.mixture import readahead
from data.mixture.plan import Plan
from data.mixture.readahead import NOTHING_TO_PREPARE, WorkerSamples, WorkerShare, first_in_its_row
from data.mixture.spans import ShardSpans

from mds_shards import plan_of, shard_rows, write_domains

BATCH = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_domains(tmp_path_factory.mktemp("mds"), {"web": 200, "code": 100}, rows_per_shard=20)


@pytest.fixture
def plan(folders: list[Path]) -> Plan:
    return plan_of(folders, {0: (0.75, 0.25)})


@pytest.fixture
def spans(folders: list[Path]) -> ShardSpans:
    return ShardSpans(np.concatenate([shard_rows(folder) for folder in folders]))


def worker_samples(plan: Plan, spans: ShardSpans, start: int = 0, worker: int = 1, workers: int = 3) -> WorkerSamples:
    return WorkerSamples(plan, WorkerShare(start, BATCH, 1, 2, worker, workers), spans, np.array([0, 200]))


def expected_start(start: int, batch: int) -> int:
    """Of worker 1 of 3 on rank 1 of 2."""
    return start + ((batch * 3 + 1) * 2 + 1) * BATCH


@pytest.mark.parametrize("chunk_samples", [1, BATCH, 5 * BATCH, 8192])
@pytest.mark.parametrize("start", [0, 1009])
def test_batches_are_the_plans(
    plan: Plan, spans: ShardSpans, start: int, chunk_samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "CHUNK_SAMPLES", chunk_samples)
    samples = worker_samples(plan, spans, start)
    for number in range(40):
        batch, first = samples.batch(number), expected_start(start, number)
        assert (batch.places == plan[first : first + BATCH]).all()
        ids = np.array([0, 200])[batch.places["domain"]] + batch.places["row"]
        assert (spans.starts[batch.shard] + batch.row == ids).all()


def test_each_shard_of_a_batch_is_named_once(plan: Plan, spans: ShardSpans) -> None:
    samples = worker_samples(plan, spans)
    for number in range(20):
        named = [samples[number * BATCH + place] for place in range(BATCH)]
        shards = [spans[sample_id][0] for sample_id in named if sample_id != NOTHING_TO_PREPARE]
        assert sorted(shards) == sorted(set(samples.batch(number).shard.tolist()))


def test_the_first_batch_is_worked_out_alone(plan: Plan, spans: ShardSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[NDArray[np.int64]] = []
    read = Plan.read
    monkeypatch.setattr(Plan, "read", lambda plan, index: asked.append(index) or read(plan, index))
    samples = worker_samples(plan, spans, start=10**7)
    samples[0]
    assert [index.shape for index in asked] == [(1, BATCH)]
    for number in range(16):
        samples.batch(number)
    assert [len(index) for index in asked] == [1, 1, 2, 4, 8]


def test_what_has_been_read_is_forgotten(plan: Plan, spans: ShardSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "CHUNK_SAMPLES", 4 * BATCH)
    samples = worker_samples(plan, spans)
    for number in range(200):
        samples.forget_before(number)
        samples.batch(number + 10)
        assert len(samples._chunks) <= 2 + 10 // 4 + 1


def test_threads_read_the_same(plan: Plan, spans: ShardSpans) -> None:
    alone = worker_samples(plan, spans)
    expected = [alone[place] for place in range(400 * BATCH)]
    together = worker_samples(plan, spans)
    with ThreadPoolExecutor(3) as threads:
        for read in threads.map(lambda _: [together[place] for place in range(400 * BATCH)], range(3)):
            assert read == expected


def test_first_in_its_row() -> None:
    values = np.array([[3, 1, 3, 1, 2], [5, 5, 5, 5, 5]])
    assert first_in_its_row(values).tolist() == [[True, True, False, False, True], [True] + 4 * [False]]
