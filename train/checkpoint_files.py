"""The names of checkpoints: a folder `checkpoints/ba00001000` is whole; one that is being written has another name."""

from __future__ import annotations

import shutil
from pathlib import Path

PREFIX = "ba"
PARTIAL = ".partial-"


def name_of(steps: int) -> str:
    """The folder of the checkpoint after this many optimizer steps."""
    return f"{PREFIX}{steps:08d}"


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}[0-9]*") if path.is_dir())


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint to go on from, or None."""
    found = whole_checkpoints(folder)
    return found[-1] if found else None


def steps_of(checkpoint: Path) -> int:
    """Optimizer steps done when the checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def remove_after(checkpoint: Path) -> None:
    """Remove those that are newer, each so that, killed meanwhile, it is not there."""
    for newer in whole_checkpoints(checkpoint.parent):
        if steps_of(newer) > steps_of(checkpoint):
            going = newer.with_name(f"{PARTIAL}{newer.name}")
            newer.replace(going)
            shutil.rmtree(going, ignore_errors=True)
