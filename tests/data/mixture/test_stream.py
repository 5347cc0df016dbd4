"""The plan's order, as Streaming's own machinery delivers it, whatever the layout and wherever a run goes on."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from streaming import MDSWriter
from streaming.base.world import World

from data.errors import DataError
from data.mixture.loader import CurriculumLoader
from data.mixture.plan import Plan
from data.mixture.stream import CurriculumDataset

from mds_shards import LENGTH, plan_of, tokens_of, write_domains

ROWS = {"web": 300, "code": 260, "math": 35}
GLOBAL_BATCH = 192
COLUMNS = ("domain", "epoch", "row", "sample")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_domains(tmp_path_factory.mktemp("mds"), ROWS, rows_per_shard=20)


@pytest.fixture(scope="module")
def plan(folders: list[Path]) -> Plan:
    """Crosses a step and a ramp, and several epochs of every domain, within 3,000 samples."""
    return plan_of(folders, {0: (0.8, 0.2, 0), 500: (0.1, 0.8, 0.1), 1500: (0.2, 0.3, 0.5)}, ramp="linear")


def read(dataset: CurriculumDataset, start: int, batches: int, **loader: Any) -> dict[str, NDArray[Any]]:
    """The columns of so many batches from sample `start` on, one batch after another."""
    dataset.load_state_dict(state_at(start))
    loaded = itertools.islice(CurriculumLoader(dataset, **loader), batches)
    return joined(list(loaded))


def state_at(sample: int) -> dict[str, Any]:
    """The state of a run that has read the samples before this one."""
    return {"epoch": 0, "sample_in_epoch": sample, "num_canonical_nodes": 1, "shuffle_seed": 9176}


def joined(batches: list[Any]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([np.asarray(batch[name]) for batch in batches]) for name in batches[0]}


def assert_is_plan(columns: dict[str, NDArray[Any]], plan: Plan, start: int) -> None:
    """Every sample from `start` on once, in its place, with the tokens of its row."""
    expected = plan[start : start + len(columns["sample"])]
    for name in COLUMNS:
        assert columns[name].tolist() == expected[name].tolist(), name
    assert (columns["tokens"] == tokens_of(expected["domain"], expected["row"])).all()


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (1, True), (3, True), (8, False)])
def test_samples_come_in_the_plans_order(plan: Plan, folders: list[Path], workers: int, persistent: bool) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=8)
    columns = read(dataset, 40, 300, num_workers=workers, persistent_workers=persistent)
    assert_is_plan(columns, plan, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_can_be_set_to_any_sample_again_and_again(plan: Plan, folders: list[Path], workers: int) -> None:
    """With persistent workers the processes are the same ones."""
    dataset = CurriculumDataset(plan, folders, device_batch_size=8)
    loader = CurriculumLoader(dataset, num_workers=workers, persistent_workers=workers > 0)
    for start in (0, 1001, 17, 17):
        dataset.load_state_dict(state_at(start))
        assert_is_plan(joined(list(itertools.islice(loader, 10))), plan, start)


def test_a_batch_is_tensors_in_the_type_in_which_the_tokens_are_stored(plan: Plan, folders: list[Path]) -> None:
    batch = next(iter(CurriculumLoader(CurriculumDataset(plan, folders, device_batch_size=4), num_workers=1)))
    assert {name: (column.shape, column.dtype) for name, column in batch.items()} == {
        "tokens": ((4, LENGTH), torch.uint16),
        **dict.fromkeys(COLUMNS, ((4,), torch.int64)),
    }


def test_a_single_sample_is_still_streamings_own(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=4)
    assert dataset.size == sum(ROWS.values())
    assert dataset[ROWS["web"] + 7]["tokens"].tolist() == tokens_of(np.array([1]), np.array([7]))[0].tolist()


def layouts() -> Iterator[tuple[int, int, int]]:
    """(nodes, ranks, workers): every number of ranks with several of workers and of nodes."""
    for ranks, workers in [*itertools.product((1, 2, 3, 4, 8), (0, 1, 2, 5, 8)), (64, 0), (64, 3)]:
        nodes = [nodes for nodes in (1, 2, 3, 4, 8) if ranks % nodes == 0]
        yield nodes[(ranks + workers) % len(nodes)], ranks, workers


# In the middle of a block of counts, of a group of shards, of a domain's epoch; before an anchor and behind all.
@pytest.mark.parametrize("start", [0, 13, 480, 1499, 2600])
def test_every_layout_reads_the_same_global_batches(plan: Plan, folders: list[Path], start: int) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=1)
    for nodes, ranks, workers in layouts():
        steps = max(1, workers) + 1
        assert_is_plan(read_as(dataset, nodes, ranks, workers, GLOBAL_BATCH, start, steps), plan, start)


def read_as(
    dataset: CurriculumDataset, nodes: int, ranks: int, workers: int, global_batch: int, start: int, steps: int
) -> dict[str, NDArray[Any]]:
    """What all ranks together would read in so many steps, rank by rank within each step."""
    dataset.device_batch_size = global_batch // ranks
    by_place = {}
    for rank, worker in itertools.product(range(ranks), range(max(1, workers))):
        number = rank * max(1, workers) + worker
        dataset._parallel_worker_world = World(nodes, ranks // nodes, max(1, workers), number)
        samples = dataset._get_work(0, start)
        for turn, step in enumerate(range(worker, steps, max(1, workers))):
            by_place[step, rank] = dataset[samples.batch(turn)]
    return joined([by_place[place] for place in sorted(by_place)])


def test_a_run_moves_to_other_ranks_and_global_batches_at_any_step(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=1)
    start, parts = 0, []
    moves = [
        (1, 1, 0, 24, 3),
        (2, 4, 2, 24, 5),
        (1, 3, 1, 24, 1),
        (1, 3, 8, 33, 4),
        (8, 64, 2, 128, 7),
        (1, 2, 5, 10, 9),
    ]
    for nodes, ranks, workers, global_batch, steps in moves:
        parts.append(read_as(dataset, nodes, ranks, workers, global_batch, start, steps))
        start += steps * global_batch
    assert_is_plan(joined(parts), plan, 0)
    assert start > 1000


def test_a_worker_far_into_a_long_run_starts_at_once(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=16)
    columns = read_as(dataset, 1, 8, 3, 128, 10**7, 3)
    assert_is_plan(columns, plan, 10**7)


def test_state_counts_samples_and_names_their_plan(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=4)
    next(iter(CurriculumLoader(dataset)))
    state = dataset.state_dict(num_samples=4, from_beginning=True)
    assert (state["sample_in_epoch"], state["plan"]) == (4, plan.fingerprint)
    json.dumps(state)


def test_a_loader_counts_the_samples_that_it_gave(plan: Plan, folders: list[Path]) -> None:
    dataset = CurriculumDataset(plan, folders, device_batch_size=4)
    dataset.load_state_dict(state_at(100))
    loader = CurriculumLoader(dataset, num_workers=2)
    for _ in zip(range(6), loader, strict=False):
        state = loader.state_dict()
    assert state is not None
    assert state["sample_in_epoch"] == 124


@pytest.mark.parametrize(
    "columns",
    [{"tokens": "ndarray:uint16"}, {"tokens": "ndarray:float32:8"}, {"tokens": "ndarray:uint16:8", "domain": "int"}],
)
def test_shards_without_tokens_of_a_fixed_length_are_refused(tmp_path: Path, plan: Plan, columns: dict) -> None:
    folders = [tmp_path / name for name in ROWS]
    dtype = np.float32 if "float" in columns["tokens"] else np.uint16
    for folder in folders:
        with MDSWriter(out=str(folder), columns=columns) as writer:
            writer.write({"tokens": np.zeros(LENGTH, dtype), "domain": 1})
    with pytest.raises(DataError, match="a column, tokens, of one type and length"):
        CurriculumDataset(plan, folders, device_batch_size=4)


@pytest.mark.parametrize("compression", ["zstd", "zstd:7"])
def test_compressed_shards_are_read_as_well(tmp_path: Path, compression: str) -> None:
    folders = write_domains(tmp_path, {"web": 60, "code": 60}, rows_per_shard=20, compression=compression)
    plan = plan_of(folders, {0: (0.5, 0.5)})
    dataset = CurriculumDataset(plan, folders, device_batch_size=8)
    assert_is_plan(read(dataset, 0, 20), plan, 0)
