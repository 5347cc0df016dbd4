"""A stage is made once for what it depends on; a kill leaves it whole or not there."""

import os

import pytest

from data.errors import DataError
from data.prepare import file_hashes
from data.prepare.file_hashes import hash_files
from data.prepare.stages import Stages


def writer(text, log=None):
    def write(folder):
        if log is not None:
            log.append(text)
        folder.mkdir()
        (folder / "rows").write_text(text)

    return write


def test_what_is_whole_is_reused_and_what_nobody_wants_goes(tmp_path):
    log = []
    first = Stages(tmp_path, 1)
    read = first.make("read", ["a"], writer("read a", log))
    first.make("cleaned", [read.fingerprint, 1], writer("clean a 1", log))
    assert first.summary() is None
    second = Stages(tmp_path, 1)
    read = second.make("read", ["a"], writer("read a", log))
    cleaned = second.make("cleaned", [read.fingerprint, 2], writer("clean a 2", log))
    assert log == ["read a", "clean a 1", "clean a 2"]
    assert second.summary() == "reused from an earlier run: read (1); made anew: cleaned (1)"
    assert len(list(tmp_path.iterdir())) == 3
    second.remove_unwanted(keep=True)
    assert sorted(tmp_path.iterdir()) == sorted([read.folder, cleaned.folder])
    Stages(tmp_path, 2).make("read", ["a"], writer("read a, other code", log))
    assert log[-1] == "read a, other code"
    second.remove_unwanted(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_was_cut_off_is_made_again(tmp_path):
    def cut_off(folder):
        writer("half")(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Stages(tmp_path, 1).make("read", [], cut_off)
    again = Stages(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []
    assert (again.make("read", [], writer("whole")).folder / "rows").read_text() == "whole"


def test_a_stage_that_lost_its_part_is_made_again(tmp_path):
    log = []
    stage = Stages(tmp_path, 1).make("shards", [], writer("one", log), whole="rows")
    (stage.folder / "rows").rename(tmp_path / "published")
    Stages(tmp_path, 1).make("shards", [], writer("two", log), whole="rows")
    Stages(tmp_path, 1).make("shards", [], writer("three", log), whole="rows")
    assert log == ["one", "two"]


def test_a_file_is_hashed_again_only_if_it_was_written_to(tmp_path, monkeypatch):
    files = [tmp_path / name for name in ("a", "b")]
    for path in files:
        path.write_text("text")
    monkeypatch.setattr(file_hashes, "SETTLED_SECONDS", 0)
    read, hash_one = [], file_hashes._hash
    monkeypatch.setattr(file_hashes, "_hash", lambda path: read.append(path) or hash_one(path))

    def hashes():
        read.clear()
        return hash_files(files, tmp_path / "work", lambda: pytest.fail("Spark for two small files"))

    first = hashes()
    assert read == files and len(set(first.values())) == 1
    assert hashes() == first and read == []
    before = files[1].stat()
    files[1].write_text("TEXT")  # as long as before, and with its old time of modification
    os.utime(files[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    second = hashes()
    assert read == [files[1]] and second[files[1]] != first[files[1]] and second[files[0]] == first[files[0]]
    files[0].unlink()
    with pytest.raises(DataError, match=r"can't read .*a \(No such file"):
        hashes()
