"""The same recipe on the same machine, twice, is the same bit for bit: losses, weights and the optimizer's state."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader, load
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from metric_rows import rows
from processes import brickyard


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    known = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    found = {
        name: torch.empty(one.size, dtype=one.properties.dtype)
        for name, one in known.items()
        if isinstance(one, TensorStorageMetadata)
    }
    load(found, checkpoint_id=checkpoint)
    return found


def copy_slowly() -> None:
    """A checkpoint is copied while the next step runs, whose update must not be in it."""
    from train.checkpoints.tensors import HostCopy

    copy = HostCopy._copy

    def slowly(self: HostCopy, name: str, tensor: torch.Tensor) -> None:
        time.sleep(0.01)
        copy(self, name, tensor)

    HostCopy._copy = slowly  # type: ignore[method-assign]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_recipe_twice_is_equal_bit_for_bit(workshop: SimpleNamespace, ranks: int) -> None:
    """With dropout and router jitter; once with `deterministic: true`, which changes nothing on a CPU, and slow
    copies."""
    runs = []
    for number, deterministic in enumerate(("false", "true")):
        name = f"again-{ranks}-{number}"
        options = [f"run_name={name}", f"deterministic={deterministic}", "max_duration=6ba", "wandb.mode=disabled"]
        log = workshop.root / f"{name}.log"
        before = copy_slowly if number else None
        command = ["train", str(workshop.recipe), *options, "save_interval=3ba", "checkpoints.keep_last=2"]
        codes = brickyard(command, log, ranks=ranks, before=before)
        assert codes == [0] * ranks, log.read_text()
        runs.append(workshop.root / "runs" / name)
    assert rows(runs[0]) == rows(runs[1])
    for name in ("ba00000003", "ba00000006"):
        first, second = (tensors(run / "checkpoints" / name) for run in runs)
        assert first.keys() == second.keys() and sum(name.endswith("exp_avg") for name in first) > 5
        assert all(torch.equal(first[name], second[name]) for name in first)
