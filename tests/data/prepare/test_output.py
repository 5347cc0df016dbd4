"""The output folder appears whole or not at all."""

import pytest

from data.errors import DataError
from data.prepare.output import unfinished_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_appears_when_the_block_ends(tmp_path):
    output = tmp_path / "new" / "dataset"
    with unfinished_folder(output) as folder:
        (folder / "manifest.json").write_text("1")
        assert not output.exists()
    assert names(output.parent) == ["dataset"]
    with unfinished_folder(output) as folder:  # a dataset is replaced
        (folder / "manifest.json").write_text("2")
        assert (output / "manifest.json").read_text() == "1"
    assert names(output.parent) == ["dataset"] and (output / "manifest.json").read_text() == "2"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError, OSError])
def test_it_does_not_appear_when_the_block_fails(tmp_path, stop):
    with pytest.raises(stop), unfinished_folder(tmp_path / "dataset") as folder:
        (folder / "half").write_text("")
        raise stop
    assert names(tmp_path) == []


def test_what_a_killed_job_left_is_removed(tmp_path):
    (tmp_path / ".dataset.unfinished" / "work").mkdir(parents=True)
    (tmp_path / ".dataset.replaced").mkdir()
    with unfinished_folder(tmp_path / "dataset") as folder:
        assert list(folder.iterdir()) == []
    assert names(tmp_path) == ["dataset"]


def test_two_jobs_do_not_write_one_output(tmp_path):
    with (
        unfinished_folder(tmp_path / "dataset") as folder,
        pytest.raises(DataError, match="another process is preparing"),
        unfinished_folder(tmp_path / "dataset"),
    ):
        pass
    assert not folder.exists() and (tmp_path / "dataset").exists()


def test_a_file_or_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path, tmp_path / "file"):
        with pytest.raises(DataError, match="is no prepared dataset"), unfinished_folder(output):
            pass
    assert (tmp_path / "file").read_text() == "mine"
