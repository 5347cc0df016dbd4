"""The folder for what lives no longer than the run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.mixture.leftovers import alone_on_this_machine
from train.run_directory import RunDirectory


@contextmanager
def own_temporary_folder(run: RunDirectory) -> Iterator[None]:
    """Make a temporary folder of the run's own, on this machine, the default one; it is removed at the end.

    Streaming leaves lock files in the temporary folder. In a folder of the run's own they neither meet another run's
    nor pile up. Folders of runs that were killed are removed.
    """
    root, user = Path(tempfile.gettempdir()), os.getuid()
    folder = root / f"brickyard-{user}-{hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:12]}"
    leader = os.environ.get("LOCAL_RANK", "0") == "0"
    with alone_on_this_machine():
        if leader:
            remove_dead_folders()
        in_use = make_and_hold(folder)  # until this process ends, however it ends
    before, os.environ["TMPDIR"], tempfile.tempdir = os.environ.get("TMPDIR"), str(folder), None
    try:
        yield
    finally:
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        os.close(in_use)
        remove_unless_held(folder)


def make_and_hold(folder: Path) -> int:
    """The folder, opened and locked, so that nobody removes it; whoever had it before may be removing it just now."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            held = os.open(folder, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_SH)
            if folder.exists() and os.path.samestat(os.fstat(held), folder.stat()):
                return held
            os.close(held)


def remove_dead_folders() -> None:
    """Remove those of this user's runs that no process holds a lock on."""
    for folder in Path(tempfile.gettempdir()).glob(f"brickyard-{os.getuid()}-*"):
        remove_unless_held(folder)


def remove_unless_held(folder: Path) -> None:
    """Remove it, unless a process holds it: the last rank that ends does, and not if the run has begun anew."""
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # its run has just ended
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(file)
