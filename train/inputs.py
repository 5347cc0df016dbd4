"""A run's inputs, read and held against each other: the recipe and the dataset's manifest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.manifest import FILE, Manifest, verify
from data.remote import fetch
from train.cache import cache_problems
from train.curriculum.build import resolve_curriculum
from train.errors import CurriculumError, NoDataset
from train.initial_weights import initial_weights_problems, initial_weights_warnings
from train.layout import fewest_ranks, rank_problems
from train.machine import machine_problems
from train.planned_dataset import planned_manifest
from train.reader import RecipeSource, read_recipe
from train.recipe import DatasetConfig, Recipe, dataset_problems
from train.schema import Problem


def read_run(
    path: Path, overrides: Sequence[str], ranks: int | None = None, here: bool = False, planned: bool = False
) -> tuple[Recipe, Manifest]:
    """The recipe at `path` and the manifest of its dataset; every rank reads the same.

    `ranks` is their number; None for `default_ranks`. `here` says that it is to be trained on this machine and not only
    looked at; `planned`, that while no dataset is there, the sizes that it is planned with will do.

    Raises:
        RecipeError: the recipe is wrong, or asks for what the dataset, the number of ranks or the machine does not
            give.
        NoDataset: there is none, and the recipe says nothing of its size.
        DataError: the dataset is not whole.
    """
    source = RecipeSource(path, tuple(overrides))
    recipe = read_recipe(Recipe, source)
    source.raise_first(machine_problems(recipe) if here else [])
    source.raise_first(rank_problems(recipe, ranks or default_ranks(recipe)))
    if planned and recipe.dataset.planned_tokens and not (Path(recipe.dataset.path) / FILE).exists():
        manifest = planned_manifest(recipe)
    else:
        manifest = open_dataset(source, recipe.dataset)
    source.raise_first(dataset_problems(recipe, manifest))
    source.raise_first(initial_weights_problems(recipe, manifest))
    try:
        domains = resolve_curriculum(recipe, manifest).schedule.domains
    except CurriculumError as error:
        source.raise_first([(error.key, error.sentence)])
    source.raise_first(cache_problems(recipe.dataset.cache_bytes, manifest, domains))
    warn(source, [*curriculum_warnings(recipe), *initial_weights_warnings(recipe)])
    return recipe, manifest


def default_ranks(recipe: Recipe) -> int:
    """As many ranks as this is one of, or where it is none, the fewest that the recipe allows."""
    return int(os.environ["WORLD_SIZE"]) if "WORLD_SIZE" in os.environ else fewest_ranks(recipe)


def open_dataset(source: RecipeSource, dataset: DatasetConfig) -> Manifest:
    """The manifest of the dataset, which is whole: here, or in part here and in part at its remote.

    Raises:
        NoDataset: there is no such folder.
        DataError: it is not whole, or its remote can't be reached.
    """
    folder = Path(dataset.path)
    if dataset.remote is not None:
        say(f"fetching what {dataset.remote} says of itself")
        return fetch(dataset.remote, folder)
    if not folder.is_dir():
        sentence = f"no such folder: {folder}; `brickyard prepare` makes datasets"
        raise NoDataset(f"{source.where('dataset.path')}: {sentence}")
    return verify(folder)


def curriculum_warnings(recipe: Recipe) -> list[Problem]:
    """What is taken otherwise than it is written."""
    return [(f"curriculum.{key}", sentence) for key, sentence in recipe.curriculum.warnings()]


def warn(source: RecipeSource, warnings: Iterable[Problem]) -> None:
    for key, sentence in warnings:
        say(f"warning: {source.where(key)}: {sentence}")


def say(line: str) -> None:
    """On stderr, by rank 0 for all."""
    if os.environ.get("RANK", "0") == "0":
        print(f"brickyard: {line}", file=sys.stderr, flush=True)
