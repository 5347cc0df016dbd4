"""Each run has a temporary folder of its own, which goes when the run does, or when another finds it dead."""

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from train.run_directory import RunDirectory
from train.temporary_folder import make_and_hold, own_temporary_folder, remove_unless_held


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "tmp").mkdir()
    yield tmp_path / "tmp"
    tempfile.tempdir = None


def run_of(root: Path, name: str) -> RunDirectory:
    return RunDirectory(root / "runs" / name)


def test_it_is_the_default_while_it_lasts(tmp_path: Path, machine: Path) -> None:
    with own_temporary_folder(run_of(tmp_path, "one")):
        own = Path(tempfile.gettempdir())
        (own / "000000_barrier_filelock").touch()
        assert own.parent == machine
    assert not own.exists()
    assert tempfile.gettempdir() == str(machine)


def die(run: RunDirectory) -> None:
    with own_temporary_folder(run):
        (Path(tempfile.gettempdir()) / "000000_barrier_filelock").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_folder_of_a_killed_run_goes_and_one_in_use_stays(tmp_path: Path, machine: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=die, args=(run_of(tmp_path, "killed"),))
    process.start()
    process.join()
    [dead] = machine.iterdir()
    with own_temporary_folder(run_of(tmp_path, "one")):
        one = Path(tempfile.gettempdir())
        assert not dead.exists()
        os.environ["TMPDIR"], tempfile.tempdir = str(machine), None
        with own_temporary_folder(run_of(tmp_path, "two")):
            assert one.exists()


def test_what_is_removed_while_it_is_taken_is_made_anew(
    tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run before, of the same name, is just ending: it removes the folder before, or after, it has been opened."""
    folder, left = machine / "brickyard", ["before", "after"]
    opens = os.open

    def open_late(path: Path, flags: int, **others: Any) -> int:
        when = left.pop() if left else ""
        if when == "before":
            folder.rmdir()
        opened = opens(path, flags, **others)
        if when == "after":
            folder.rmdir()
        return opened

    monkeypatch.setattr(os, "open", open_late)
    held = make_and_hold(folder)
    assert left == [] and os.path.samestat(os.fstat(held), folder.stat())
    remove_unless_held(folder)
    assert folder.exists()
    os.close(held)
    remove_unless_held(folder)
    assert not folder.exists()
