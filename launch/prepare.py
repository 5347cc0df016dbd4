"""`brickyard prepare`: raw text in, a tokenized MDS dataset with a manifest out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.prepare.job import prepare
from data.prepare.recipe import PrepareRecipe
from train.reader import RecipeSource, read_recipe


def prepare_command(path: Path, overrides: Sequence[str]) -> int:
    """Prepare the dataset that the recipe at `path` describes. Returns the exit code."""
    recipe = read_recipe(PrepareRecipe, RecipeSource(path, tuple(overrides)))
    prepare(recipe, lambda line: print(f"prepare: {line}", flush=True))
    return 0
