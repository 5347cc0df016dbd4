"""A save that ranks wait for together: however long it takes, and whatever becomes of one of them."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from train.checkpoints.saving import Saving
from train.checkpoints.writing import SaveFailed, Snapshot, write_checkpoint


def rank_of_two(rank: int, folder: Path, spoilt: int | None) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(str(folder / "store"), 2))
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=2 if spoilt else 60))
    calls: list[float] = []

    def write(copies: object) -> None:
        time.sleep(2.5 if rank else 0.1)
        if rank and spoilt:
            os.kill(os.getpid(), spoilt)
        raise OSError(f"what rank {rank} ended with")

    saving = Saving(1, dict, write)
    try:
        error = saving.wait_together(group, lambda: calls.append(time.monotonic()))
        said = f"{error}, {'asked' if len(calls) >= 3 else calls}"
    except RuntimeError as missed:
        said = f"missed: {missed}"
    (folder / f"said{rank}").write_text(said)


def said(folder: Path, spoilt: int | None) -> list[str]:
    """What each rank has said, those that came to it."""
    context = mp.start_processes(rank_of_two, args=(folder, spoilt), nprocs=2, join=False, start_method="fork")
    assert context is not None
    context.processes[0].join(60)
    for process in context.processes:
        process.kill()
        process.join()
    return [path.read_text() for path in sorted(folder.glob("said*"))]


def test_each_waits_for_the_other_and_has_its_own_error(tmp_path: Path) -> None:
    assert said(tmp_path, None) == [f"what rank {rank} ended with, asked" for rank in (0, 1)]


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_rank_that_hangs_or_is_gone_ends_the_others(tmp_path: Path, how: int) -> None:
    [first] = said(tmp_path, how)
    assert first.startswith("missed: ")


def rank_without_room(rank: int, folder: Path) -> None:
    """Rank 1 has no memory for its copies."""
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(str(folder / "store"), 2))
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=60))

    def copy() -> dict[str, Tensor]:
        if rank:
            raise RuntimeError("no memory")
        return {}

    saving = Saving(1, copy, lambda copies: write_checkpoint(folder, Snapshot(1, {}, copies, lambda path: None), group))
    saving.wait_for_copy()
    error = saving.wait_together(None)
    assert isinstance(error, SaveFailed)
    (folder / f"said{rank}").write_text(str(error))


def test_a_rank_that_can_copy_nothing_tells_the_others(tmp_path: Path) -> None:
    mp.start_processes(rank_without_room, args=(tmp_path,), nprocs=2, start_method="fork")
    heard = [(tmp_path / f"said{rank}").read_text() for rank in (0, 1)]
    assert heard == ["can't be written (RuntimeError: no memory)"] * 2
    assert not list(tmp_path.glob("ba*"))
