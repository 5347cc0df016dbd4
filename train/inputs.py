"""A run's inputs, read and held against each other: the recipe and the dataset's manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data.manifest import Manifest, verify
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe, dataset_problems, rank_problems


def read_run(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Manifest]:
    """The recipe at `path` and the manifest of its dataset; every rank reads the same.

    Raises:
        RecipeError: the recipe is wrong, or asks for what the dataset or the number of ranks does not give.
        DataError: the dataset is not whole.
    """
    source = RecipeSource(path, tuple(overrides))
    recipe = read_recipe(Recipe, source)
    folder = Path(recipe.dataset.path)
    if not folder.is_dir():
        source.raise_first([("dataset.path", f"no such folder: {folder}; `brickyard prepare` makes datasets")])
    manifest = verify(folder)
    source.raise_first(dataset_problems(recipe, manifest))
    source.raise_first(rank_problems(recipe, int(os.environ.get("WORLD_SIZE", "1"))))
    return recipe, manifest
