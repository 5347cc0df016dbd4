"""The output folder appears whole or not at all."""

from pathlib import Path

import pytest

from data.prepare.output import unfinished_folder


def make_dataset(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(name)


def test_a_failure_leaves_the_old_dataset(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    make_dataset(output, "old")
    with pytest.raises(ZeroDivisionError), unfinished_folder(output) as folder:
        make_dataset(folder, "new")
        raise ZeroDivisionError
    assert (output / "manifest.json").read_text() == "old"
    with unfinished_folder(output) as folder:
        make_dataset(folder, "new")
    assert (output / "manifest.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["dataset"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    make_dataset(tmp_path / ".dataset.replaced", "old")
    make_dataset(tmp_path / ".dataset.unfinished", "new")
    with pytest.raises(ZeroDivisionError), unfinished_folder(output):
        raise ZeroDivisionError
    assert (output / "manifest.json").read_text() == "old"
