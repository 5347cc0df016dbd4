"""`brickyard train`: a recipe becomes a run, or a run goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from train.inputs import read_run


def train_command(path: Path, overrides: Sequence[str]) -> int:
    """Train the recipe at `path`. Returns the exit code."""
    recipe, manifest = read_run(path, overrides)
    if os.environ.get("RANK", "0") == "0":
        print("train: loading torch and Composer", flush=True)
    from train.run import run_recipe  # only now: a bad recipe is refused at once, Composer takes ten seconds

    run_recipe(recipe, manifest)
    return 0
