"""A checkpoint becomes whole, or is not there: written under another name, forced to the disk, then renamed.

However a process ends meanwhile, the newest whole checkpoint is still there: this one or the one before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException

from train.checkpoints.checksums import TENSORS, Checksum, read_checksums, share_of, write_checksums
from train.checkpoints.names import DAMAGED, LATEST, PARTIAL, name_of, remove, remove_leftovers
from train.checkpoints.remote import RemoteRun
from train.checkpoints.retention import Retention
from train.checkpoints.tensors import write_tensors


class SaveFailed(Exception):
    """What a checkpoint can't be: `can't be written (why)`; every rank hears it.

    Attributes:
        written: it is on the disk nevertheless.
    """

    def __init__(self, said: str, written: bool = False) -> None:
        super().__init__(said)
        self.written = written


class RankFailed(Exception):
    """A rank could not do its part; says why."""


@dataclass(frozen=True)
class Snapshot:
    """A run after a step, with nothing in it that training changes.

    Attributes:
        tensors: their outlines; what is in them has changed since.
        copies: gives what this rank's parts of them held, or raises why there are no copies.
        write_rest: puts everything else into a checkpoint's folder; called on rank 0.
    """

    step: int
    tensors: Mapping[str, Tensor]
    copies: Callable[[], Mapping[str, Tensor]]
    write_rest: Callable[[Path], None]


def write_checkpoint(folder: Path, snapshot: Snapshot, group: dist.ProcessGroup) -> Path:
    """Writes the snapshot as a checkpoint in `folder` and returns where it lies; called on every rank.

    Args:
        group: of all ranks, on which nothing else is sent meanwhile.

    Raises:
        SaveFailed: on every rank; nothing is left of it, and the checkpoints before are as they were.
    """
    name = name_of(snapshot.step)
    partial = folder / f"{PARTIAL}{name}"
    try:
        on_every_rank(snapshot.copies, group)
        files = write_tensors(partial, snapshot.tensors, snapshot.copies(), group)
        of_ranks: list[dict[str, Checksum]] = [{}] * dist.get_world_size(group)
        dist.all_gather_object(of_ranks, files, group=group)
        known = {name: checksum for files in of_ranks for name, checksum in files.items()}
        on_first_rank(lambda: publish(snapshot, partial, folder / name, known), group)
    except (CheckpointException, OSError, RuntimeError, RankFailed) as error:
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise SaveFailed(f"can't be written ({reason(error)})") from error
    return folder / name


def publish(snapshot: Snapshot, partial: Path, final: Path, known: Mapping[str, Checksum]) -> None:
    """Completes a checkpoint whose tensors are written, and gives it its name."""
    snapshot.write_rest(partial)
    write_checksums(partial, known)
    for path in partial.rglob("*"):
        if not path.name.endswith(TENSORS):  # which are on the disk already
            sync(path)
    sync(partial)
    if final.exists():
        remove(final)
    partial.replace(final)
    sync(final.parent)
    point_to(final)


def point_to(checkpoint: Path) -> None:
    """Have the file `latest` name it."""
    pointer = checkpoint.with_name(LATEST)
    partial = checkpoint.with_name(f"{PARTIAL}{LATEST}")
    partial.write_text(f"{checkpoint.name}\n")
    sync(partial)
    partial.replace(pointer)
    sync(pointer.parent)


def copy_checkpoint(
    remote: RemoteRun, checkpoint: Path, run: Path, retention: Retention, group: dist.ProcessGroup
) -> None:
    """Copies a whole checkpoint, each rank a share of its files; called on every rank.

    Raises:
        SaveFailed: on every rank; what was copied of it does not count.
    """

    def put_share() -> None:
        sums = read_checksums(checkpoint)
        remote.put_files(checkpoint, share_of(sums, dist.get_rank(group), dist.get_world_size(group)))

    try:
        on_every_rank(put_share, group)
        on_first_rank(lambda: remote.complete(checkpoint, run, retention), group)
    except (RuntimeError, RankFailed) as error:
        raise SaveFailed(f"can't be copied to {remote.store.url} ({reason(error)})", written=True) from error


def drop_older(folder: Path, retention: Retention, group: dist.ProcessGroup) -> None:
    """Removes checkpoints that are superseded, and damaged ones; called on every rank when a newer one is whole.

    Raises:
        SaveFailed: on every rank.
    """

    def drop() -> None:
        retention.apply(folder)
        remove_leftovers(folder, DAMAGED)

    try:
        on_first_rank(drop, group)
    except RankFailed as error:
        raise SaveFailed(f"is written, but older ones can't be removed ({error})", written=True) from error


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def on_first_rank(action: Callable[[], object], group: dist.ProcessGroup) -> None:
    """Rank 0 does it, the others wait.

    Raises:
        RankFailed: on every rank, if it failed.
    """
    on_every_rank(action if dist.get_rank() == 0 else lambda: None, group)


def on_every_rank(action: Callable[[], object], group: dist.ProcessGroup) -> None:
    """Each rank does it, and waits for the others.

    Raises:
        RankFailed: on every rank, if it failed on any.
    """
    failed: str | None = None
    try:
        action()
    except Exception as error:  # the others wait, and must hear of anything
        failed = reason(error)
    of_ranks: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(of_ranks, failed, group=group)
    if any(of_ranks):
        raise RankFailed(next(filter(None, of_ranks)))


def reason(error: BaseException) -> str:
    """A few words for a sentence."""
    if isinstance(error, CheckpointException):  # of any number of ranks
        return reason(next(iter(error.failures.values()))[0])
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) if isinstance(error, RankFailed) else f"{type(error).__name__}: {error}"
