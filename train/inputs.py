"""A run's inputs, read and held against each other: the recipe and the dataset's manifest."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.manifest import Manifest, verify
from train.curriculum import resolve_curriculum
from train.errors import CurriculumError
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
    try:
        resolve_curriculum(recipe, manifest)
    except CurriculumError as error:
        source.raise_first([(error.key, error.sentence)])
    warn(source, recipe)
    return recipe, manifest


def warn(source: RecipeSource, recipe: Recipe) -> None:
    """Say on stderr what is taken otherwise than it is written; rank 0 says it for all."""
    if os.environ.get("RANK", "0") == "0":
        for key, sentence in recipe.curriculum.warnings():
            print(f"brickyard: warning: {source.where(f'curriculum.{key}')}: {sentence}", file=sys.stderr)
