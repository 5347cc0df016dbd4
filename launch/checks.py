"""What of this machine does not fit a run, each in a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from data.words import byte_count
from train.checkpoints.names import whole_checkpoints
from train.checkpoints.size import checkpoint_bytes
from train.recipe import Recipe
from train.run_directory import RunDirectory

SMI = "index,ecc.errors.uncorrected.volatile.total,remapped_rows.failure"  # what nvidia-smi is asked
SMI_WITHIN = 60  # seconds


def disk_problems(recipe: Recipe, run: RunDirectory) -> Iterator[str]:
    """Those that stay at the end, and the one that is being written."""
    each, stay = checkpoint_bytes(recipe.model), checkpoints_at_the_end(recipe)
    missing = max(1, stay + 1 - len(whole_checkpoints(run.checkpoints)))
    folder = existing(run.path)
    if (free := shutil.disk_usage(folder).free) < missing * each:
        yield (
            f"{folder} has {byte_count(free)} free, and {missing} more checkpoints of {byte_count(each)} must fit "
            f"({stay} stay by checkpoints.keep_last and keep_every, one is being written); make room, or set run_root"
        )


def checkpoints_at_the_end(recipe: Recipe) -> int:
    """How many a run leaves."""
    interval = recipe.interval_steps(recipe.save_interval)
    saved = {*range(interval, recipe.steps + 1, interval), recipe.steps}
    return len(saved) - len(recipe.retention.superseded(saved))


def existing(path: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())


def gpu_problems(ranks: int, expected: int | None = None) -> Iterator[str]:
    """GPUs that are missing or ill."""
    found = device_count()
    if expected is not None and found < expected:
        yield f"{found} of {expected} GPUs are here; `nvidia-smi` says which, and the driver's log why"
    elif found and ranks > found:
        yield f"-n {ranks}: there are {found} GPUs here, and each rank needs one"
    yield from smi_problems(ask_smi())


def device_count() -> int:
    import torch

    return torch.cuda.device_count()


def ask_smi() -> str:
    """Of each GPU that may be used, where nvidia-smi is there to be asked, which shows the others as well."""
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader,nounits"]
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        if not visible:
            return ""
        command.append(f"--id={visible}")
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SMI_WITHIN, check=True).stdout
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return ""


def smi_problems(said: str) -> Iterator[str]:
    """What nvidia-smi finds wrong. Of what a GPU has no count of, it says [N/A]."""
    for line in said.splitlines():
        gpu, *rest = (word.strip() for word in line.split(","))
        if not rest:
            continue  # such as: No devices were found
        errors, *failure = rest
        if errors.isdigit() and int(errors):
            yield f"GPU {gpu} has had {errors} memory errors that were not corrected; reset it, or leave this host out"
        if failure in (["Yes"], ["1"]):
            yield f"GPU {gpu} could not remap memory that has failed; it must be replaced: leave this host out"
