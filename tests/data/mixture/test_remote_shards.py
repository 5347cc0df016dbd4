"""Shards that lie elsewhere: fetched before they are needed, evicted under a limit, refused when they are not whole."""

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streaming import Stream

from data.errors import DataError, Outage
from data.mixture import prepared
from data.mixture.loader import CurriculumLoader
from data.mixture.plan import Plan
from data.mixture.prepared import PreparedDataset
from data.mixture.stream import CurriculumDataset

from mds_shards import plan_of, tokens_of, write_domains
from slow_remote import fetched, fetching_threads

ROWS = {"web": 1200, "code": 1200}
ROWS_PER_SHARD = 25
BATCH = 8
ANCHOR = 400


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    write_domains(tmp_path / "remote", ROWS, ROWS_PER_SHARD)
    return tmp_path / "remote"


def dataset_at(remote: Path, cache: Path, plan: Plan, **options: int) -> CurriculumDataset:
    remotes = [f"slow://{remote}/{name}" for name in ROWS]
    return CurriculumDataset(plan, [cache / name for name in ROWS], BATCH, remotes=remotes, **options)


def shards_of(dataset: CurriculumDataset, plan: Plan, start: int, stop: int) -> set[str]:
    """`DOMAIN/FILE` of every shard that these samples lie in."""
    places = plan[start:stop]
    shards, _ = dataset.spans.locate(dataset.sample_offset_per_stream[places["domain"]] + places["row"])
    names = np.array(list(ROWS))[dataset.stream_per_shard[shards]]
    return {
        f"{name}/{dataset.shards[shard].file_pairs[0][0].basename}" for name, shard in zip(names, shards, strict=True)
    }


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_remote_that_is_away_is_no_mistake(
    remote: Path, tmp_path: Path, two_stages: Plan, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reset(*_: object) -> None:
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(Stream, "prepare_shard", reset)
    loader = CurriculumLoader(dataset_at(remote, tmp_path / "cache", two_stages), workers)
    with pytest.raises(Outage, match=r"^shard\S+ can't be fetched from slow://\S+: Connection reset by peer$"):
        next(iter(loader))


@pytest.fixture
def two_stages(remote: Path) -> Plan:
    """web alone up to the anchor, code alone from there on."""
    return plan_of([remote / name for name in ROWS], {0: (1, 0), ANCHOR: (0, 1)})


def test_shards_are_fetched_ahead_of_their_use_and_across_an_anchor(
    remote: Path, tmp_path: Path, two_stages: Plan
) -> None:
    ahead = 160
    dataset = dataset_at(remote, tmp_path / "cache", two_stages, predownload=ahead)
    batches = iter(CurriculumLoader(dataset))
    for step in range(60):
        read = (step + 1) * BATCH
        assert next(batches)["sample"].tolist() == list(range(read - BATCH, read))
        # The reader holds still: what comes now comes ahead of it.
        within_reach = shards_of(dataset, two_stages, 0, read - BATCH + ahead)
        wait_until(lambda reach=within_reach: reach <= set(fetched(remote)))
        assert set(fetched(remote)) <= shards_of(dataset, two_stages, 0, read + ahead + BATCH)
        if read < ANCHOR - BATCH < read + ahead - 2 * BATCH:
            assert any(name.startswith("code/") for name in fetched(remote)), "nothing fetched across the anchor"
    assert read > ANCHOR
    assert len(fetched(remote)) == len(set(fetched(remote)))
    assert not any("MainThread" in thread for thread in fetching_threads(remote)), "the reader had to fetch"


@pytest.mark.parametrize("workers", [0, 2])
def test_under_a_cache_limit_shards_are_fetched_again_in_the_same_order(
    remote: Path, tmp_path: Path, workers: int
) -> None:
    plan = plan_of([remote / name for name in ROWS], {0: (0.5, 0.5), 300: (0.9, 0.1)}, ramp="linear")
    indexes = sum((remote / name / "index.json").stat().st_size for name in ROWS)
    shard = max(path.stat().st_size for path in remote.glob("*/*.mds"))
    limit = indexes + 20 * shard
    dataset = dataset_at(remote, tmp_path / "cache", plan, cache_limit=limit, predownload=2 * BATCH)
    first = 0
    for batch in itertools.islice(CurriculumLoader(dataset, workers), sum(ROWS.values()) // BATCH):
        expected = plan[first : first + BATCH]
        assert batch["row"].tolist() == expected["row"].tolist()
        assert (batch["tokens"].numpy() == tokens_of(expected["domain"], expected["row"])).all()
        first += BATCH
    assert len(fetched(remote)) > len(set(fetched(remote))) > 20, "nothing was evicted"
    assert dataset.cache_usage <= limit + 4 * shard  # two threads of two workers, each with one on its way


def test_a_limit_never_touches_shards_that_are_not_a_copy(remote: Path) -> None:
    with pytest.raises(AssertionError):
        PreparedDataset([remote / "web"], None, batch_size=1, cache_limit=10**9)


def test_a_shard_that_somebody_deleted_is_fetched_again(remote: Path, tmp_path: Path, two_stages: Plan) -> None:
    dataset = dataset_at(remote, tmp_path / "cache", two_stages)
    batches = iter(CurriculumLoader(dataset))
    read = [next(batches) for _ in range(5)]
    wait_until(lambda: shards_of(dataset, two_stages, 0, ANCHOR) <= set(fetched(remote)))
    for shard in (tmp_path / "cache" / "web").glob("*.mds"):
        shard.unlink()
    read += [next(batches) for _ in range(40)]
    assert np.concatenate([batch["row"] for batch in read]).tolist() == two_stages[: 45 * BATCH]["row"].tolist()
    assert len(fetched(remote)) > len(set(fetched(remote)))


def test_a_shard_that_is_gone_and_has_no_remote_is_named(remote: Path, two_stages: Plan) -> None:
    dataset = CurriculumDataset(two_stages, [remote / name for name in ROWS], BATCH, predownload=BATCH)
    batches = iter(CurriculumLoader(dataset))
    next(batches)
    for shard in (remote / "web").glob("*.mds"):
        shard.unlink()
    with pytest.raises(DataError, match=r"web/shard\.[0-9]{5}\.mds can't be read: the file is gone; restore it"):
        for _ in range(100):
            next(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_the_remote_lacks_is_named(remote: Path, tmp_path: Path, two_stages: Plan, workers: int) -> None:
    dataset = dataset_at(remote, tmp_path / "cache", two_stages)
    missing = sorted(shards_of(dataset, two_stages, 64, 72))[0]
    (remote / missing).unlink()
    with pytest.raises(DataError) as failure:
        for _ in zip(range(20), CurriculumLoader(dataset, workers), strict=False):
            pass
    domain, _, file = missing.partition("/")
    assert str(failure.value).startswith(f"{file} can't be fetched from slow://{remote}/{domain}: ")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_shard_that_arrives_damaged_is_refused_and_fetched_anew_by_the_next_run(
    tmp_path: Path, compression: str | None
) -> None:
    remote = tmp_path / "remote"
    folders = write_domains(remote, ROWS, ROWS_PER_SHARD, compression=compression)
    plan = plan_of(folders, {0: (0.5, 0.5)})
    dataset = dataset_at(remote, tmp_path / "cache", plan)
    damaged = remote / sorted(shards_of(dataset, plan, 0, 8))[0]
    damaged = damaged.with_name(damaged.name + (".zstd" if compression else ""))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-2] + b"xx")
    with pytest.raises(DataError, match=f"{damaged.name} can't be fetched from .*: Checksum failure"):
        next(iter(CurriculumLoader(dataset)))
    damaged.write_bytes(content)
    shutil.copytree(tmp_path / "cache", tmp_path / "next")  # this process keeps its own until it ends
    batch = next(iter(CurriculumLoader(dataset_at(remote, tmp_path / "next", plan))))
    expected = plan[0:BATCH]
    assert (batch["tokens"].numpy() == tokens_of(expected["domain"], expected["row"])).all()


def spoil(path: Path) -> None:
    """Change a byte in the middle of a shard; its size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_copy_is_fetched_again_once(remote: Path, tmp_path: Path, two_stages: Plan, workers: int) -> None:
    """It lay in the cache before the run, and has changed since it was fetched."""
    shutil.copytree(remote, tmp_path / "cache")
    dataset = dataset_at(remote, tmp_path / "cache", two_stages)
    damaged = min(shards_of(dataset, two_stages, 0, BATCH))
    spoil(tmp_path / "cache" / damaged)
    read = [batch for _, batch in zip(range(ANCHOR // BATCH), CurriculumLoader(dataset, workers), strict=False)]
    expected = two_stages[:ANCHOR]
    tokens = np.concatenate([batch["tokens"].numpy() for batch in read])
    assert (tokens == tokens_of(expected["domain"], expected["row"])).all()
    assert fetched(remote) == [damaged]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_that_is_the_only_copy_is_named(remote: Path, two_stages: Plan, workers: int) -> None:
    for path in (remote / "web").glob("*.mds"):
        spoil(path)
    dataset = CurriculumDataset(two_stages, [remote / name for name in ROWS], BATCH)
    with pytest.raises(DataError, match=r"web/shard\.[0-9]{5}\.mds can't be read: it is not what was written"):
        next(iter(CurriculumLoader(dataset, workers)))


def test_a_damaged_copy_that_was_unpacked_is_unpacked_again(tmp_path: Path) -> None:
    [folder] = write_domains(tmp_path, {"web": 50}, ROWS_PER_SHARD, compression="zstd")
    for _ in range(2):
        dataset = PreparedDataset([folder], None, batch_size=1)
        assert [int(dataset[row]["tokens"][1]) for row in range(50)] == list(range(50))
        for path in folder.glob("*.mds"):
            spoil(path)
    compressed = sorted(folder.glob("*.zstd"))[0]
    spoil(compressed)
    with pytest.raises(
        DataError, match=rf"{compressed.name} can't be read: Checksum failure: .*; restore it, or delete"
    ):
        PreparedDataset([folder], None, batch_size=1)[0]


def test_runs_that_unpack_the_same_file_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run unpacks it between our writing it and our renaming it."""
    [folder] = write_domains(tmp_path, {"web": 50}, ROWS_PER_SHARD, compression="zstd")
    ours, other = (PreparedDataset([folder], None, batch_size=1) for _ in range(2))
    rename, renamed = os.rename, []

    def rename_after_the_other(before: str, after: str) -> None:
        if not renamed:
            renamed.append(after)
            other.prepare_shard(0)
        rename(before, after)

    monkeypatch.setattr(os, "rename", rename_after_the_other)
    assert [int(ours[row]["tokens"][1]) for row in range(50)] == list(range(50))
    assert renamed
    assert {path.suffix for path in folder.iterdir()} == {".json", ".mds", ".zstd"}


def test_two_processes_do_not_share_a_cache(
    remote: Path, tmp_path: Path, two_stages: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset_at(remote, tmp_path / "cache", two_stages)
    monkeypatch.setattr(prepared, "LAST_WORKERS", 0.1)
    with pytest.raises(DataError, match=r"another process is using .*cache/web as its cache"):
        dataset_at(remote, tmp_path / "cache", two_stages)
    assert first.size == sum(ROWS.values())
