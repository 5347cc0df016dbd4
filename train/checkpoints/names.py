"""The checkpoints of a run by their names: `checkpoints/ba00001000` is whole, what begins with a dot is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from train.checkpoints.checksums import quick_damage

PREFIX = "ba"
PARTIAL = ".partial-"  # being written, fetched or deleted; a process that was killed leaves it
DAMAGED = ".damaged-"  # found to be, and set aside
LATEST = "latest"  # a file that holds the newest one's name, for whoever waits for it


def name_of(steps: int) -> str:
    """The folder of the checkpoint after this many optimizer steps."""
    return f"{PREFIX}{steps:08d}"


def is_name(name: str) -> bool:
    """Whether `name_of` gives such names: not a user's own `ba00001000.bak`."""
    return re.fullmatch(f"{PREFIX}[0-9]{{8,}}", name) is not None


def steps_of(checkpoint: Path) -> int:
    """Optimizer steps done when the checkpoint was written."""
    return steps_in(checkpoint.name)


def steps_in(name: str) -> int:
    return int(name.removeprefix(PREFIX))


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; one of them may have been damaged since."""
    return sorted((path for path in folder.glob(f"{PREFIX}*") if is_name(path.name) and path.is_dir()), key=steps_of)


def newest_checkpoint(folder: Path, at_or_before: int | None = None) -> Path | None:
    """The newest checkpoint, or the newest of `at_or_before` steps, that no quick look finds damaged; None: there is
    none. Tensors are not looked at: `train/checkpoints/verify.py` does that before a run goes on."""
    for checkpoint in reversed(whole_checkpoints(folder)):
        if (at_or_before is None or steps_of(checkpoint) <= at_or_before) and quick_damage(checkpoint) is None:
            return checkpoint
    return None


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that, killed meanwhile, it is not there."""
    going = checkpoint.with_name(f"{PARTIAL}old-{checkpoint.name}")
    shutil.rmtree(going, ignore_errors=True)
    checkpoint.replace(going)
    shutil.rmtree(going)


def set_aside(checkpoint: Path) -> Path:
    """Take a damaged checkpoint out of the way; returns where it is now."""
    aside = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.replace(aside)


def remove_leftovers(folder: Path, *prefixes: str) -> None:
    """Remove what begins with these."""
    for prefix in prefixes:
        for leftover in folder.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
