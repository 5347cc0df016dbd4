"""A dataset at a remote: its manifest and indexes come first, and a cache that holds something else is refused."""

import os
import shutil
from pathlib import Path

import pytest
from test_manifest import make_dataset

from data.errors import DataError
from data.manifest import Manifest
from data.mixture.prepared import take_cache
from data.remote import fetch


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    make_dataset(tmp_path / "remote")
    return tmp_path / "remote"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


BROUGHT = {"manifest.json", "code/train/index.json", "code/heldout/index.json"}


def test_what_is_said_of_the_shards_is_brought_and_no_shard(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "some" / "cache"
    assert fetch(str(remote), cache) == Manifest.read(remote)
    assert files(cache) == BROUGHT
    assert fetch(f"{remote}/", cache) == Manifest.read(cache)
    assert files(cache) == BROUGHT


def test_whole_shards_stay_in_the_cache_and_half_fetched_ones_go(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch(str(remote), cache)
    train = cache / "code" / "train"
    shutil.copy(remote / "code" / "train" / "shard.00001.mds", train)
    (train / "shard.00000.mds").write_bytes(bytes(699))
    (train / "shard.00001.mds.tmp").touch()
    (train / "shard.00000.mds.a1b2C3").touch()
    (train / "shard.00000.mds.a1b2c3.tmp").touch()
    (train / "notes.txt").touch()
    fetch(str(remote), cache)
    assert files(cache) == BROUGHT | {"code/train/shard.00001.mds", "code/train/notes.txt"}


def test_what_another_run_is_fetching_stays(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch(str(remote), cache)
    halves = {"code/train/shard.00000.mds", "code/train/shard.00001.mds.tmp"}
    for name in halves:
        (cache / name).touch()
    taken = take_cache(cache / "code" / "train")
    fetch(str(remote), cache)
    assert files(cache) == BROUGHT | halves
    os.close(taken)
    fetch(str(remote), cache)
    assert files(cache) == BROUGHT


def test_a_cache_of_another_dataset_is_refused(remote: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch(str(remote), cache)
    shutil.rmtree(remote)
    make_dataset(remote, tokenizer="other")
    with pytest.raises(DataError, match=r"cache holds shards of another dataset than the one at .*remote; delete it"):
        fetch(str(remote), cache)
    (cache / "manifest.json").write_text("half a manif")
    with pytest.raises(DataError, match="another dataset"):
        fetch(str(remote), cache)


@pytest.mark.parametrize("missing", sorted(BROUGHT))
def test_a_file_that_the_remote_lacks_is_named(remote: Path, tmp_path: Path, missing: str) -> None:
    (remote / missing).unlink()
    with pytest.raises(DataError, match=f"can't fetch {remote}/{missing}: .*No such file"):
        fetch(str(remote), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".fetching-*"))


def test_a_spoilt_manifest_is_named_by_its_remote(remote: Path, tmp_path: Path) -> None:
    (remote / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=f"^{remote}/manifest.json is no valid JSON"):
        fetch(str(remote), tmp_path / "cache")


def test_a_remote_of_no_known_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't fetch nowhere://bucket/manifest\.json: Unsupported remote path"):
        fetch("nowhere://bucket", tmp_path / "cache")


def test_a_cache_that_cannot_be_written(remote: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/cache can't be used as a cache: Not a directory"):
        fetch(str(remote), tmp_path / "file" / "cache")
