"""The output folder appears whole or not at all."""

import os
from pathlib import Path

import pytest

from data.errors import DataError
from data.prepare.output import check_replaceable, locked, publish


def make_dataset(folder: Path, name: str) -> None:
    (folder / "code" / "train").mkdir(parents=True)
    (folder / "manifest.json").write_text(name)


def test_a_new_dataset_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    make_dataset(output, "old")
    with locked(output) as work:
        make_dataset(work / "new", "new")
        assert (output / "manifest.json").read_text() == "old"
        publish(work / "new", output)
    assert (output / "manifest.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".dataset.lock", ".dataset.work", "dataset"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    make_dataset(tmp_path / ".dataset.replaced", "old")
    with locked(output):
        assert (output / "manifest.json").read_text() == "old"


def test_two_jobs_can_not_prepare_the_same_output(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    with locked(output), pytest.raises(DataError, match="another process is preparing"), locked(output):
        pass


def test_a_link_stays_one_and_the_dataset_lies_where_it_leads(tmp_path: Path) -> None:
    output, disk = tmp_path / "datasets" / "demo", tmp_path / "disk" / "demo"
    output.parent.mkdir()
    output.symlink_to(disk)
    for name in ("first", "second"):
        with locked(output) as work:
            make_dataset(work / "new", name)
            publish(work / "new", output)
        assert output.is_symlink() and (disk / "manifest.json").read_text() == name


def test_an_output_that_can_not_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "demo", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match=r"^output: .* can't be made \("), locked(output):
            pass


def test_only_a_dataset_is_replaced(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    make_dataset(output, "old")
    for name in (
        "code/train/shard.00000.0a1b2c3d4e5f.mds.zstd.x7",
        "code/train/shard.00000.0a1b2c3d4e5f.mds",
        "code/heldout/index.json",
        "lineage/code/train/part-00000.parquet",
        "quarantine/part-00000.parquet",
        "tokenizer/encoding.json",
        "target_counts.parquet",
        "data_card.md",
        ".versions/files.json",
        "code/.DS_Store",
    ):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
    check_replaceable(output)
    for name in ("recipe.yaml", "checkpoints/ba00000240/weights", "code/train/notes.txt", "tokenizer/old/ranks"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).touch()
        with pytest.raises(DataError, match=f"demo would be replaced, but {name} is not of a prepared dataset"):
            check_replaceable(output)
        (output / name).unlink()
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "my app"}')
    with pytest.raises(DataError, match="site exists and is no prepared dataset"):
        check_replaceable(site)


def test_a_mount_point_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with (
        pytest.raises(DataError, match=r"disk is a mount point, which can't be replaced; choose a folder in it"),
        locked(tmp_path / "disk"),
    ):
        pass
