from pathlib import Path

import pytest

from data.errors import DataError
from data.prepare.folders import files_below
from data.prepare.inputs import find_inputs
from data.prepare.recipe import Domain, Source


def write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text('{"text": "words"}\n')


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    """One that leads elsewhere, one that leads to a folder beside it, and one that leads round."""
    write(tmp_path / "disk", "c.jsonl")
    write(tmp_path / "source" / "sub", "b.jsonl")
    write(tmp_path / "source" / ".hidden", "d.jsonl")
    (tmp_path / "source" / "a.jsonl").write_text('{"text": "words"}\n')
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "source" / "twice").symlink_to(tmp_path / "source" / "sub")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "source")
    (item,) = find_inputs({"web": Domain([Source(str(tmp_path / "source"))])})
    assert [file.relative_to(tmp_path / "source").as_posix() for file in item.files] == [
        "a.jsonl",
        "linked/c.jsonl",
        "sub/b.jsonl",
    ]


def test_a_folder_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't read the folder .*/nowhere \(No such file or directory\)"):
        list(files_below(tmp_path / "nowhere"))
