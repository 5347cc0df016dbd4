"""What a launch runs, kept in the run's folder: a job that waits, or is requeued, runs what was launched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from train.errors import RecipeError
from train.reader import to_yaml
from train.recipe import Recipe
from train.run_directory import RunDirectory

PACKAGES = ("data", "launch", "model", "train")
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Snapshot:
    """RUN_DIR/launches/NUMBER: code and recipe, and what the launcher adds."""

    path: Path

    @classmethod
    def next_of(cls, run: RunDirectory) -> Snapshot:
        """The one that comes after those that are there. It is not made yet."""
        folder = run.path.resolve() / "launches"
        newest = max((int(path.name) for path in folder.glob("[0-9]*")), default=0)
        return cls(folder / f"{newest + 1:04d}")

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    def take(self, recipe: Recipe) -> None:
        """Copy this code, and write the recipe with all its overrides and defaults.

        Raises:
            RecipeError: the run's folder can't be written to.
        """
        try:
            self.path.mkdir(parents=True)
            for package in PACKAGES:
                shutil.copytree(ROOT / package, self.code / package, ignore=shutil.ignore_patterns("__pycache__"))
            self.recipe.write_text(to_yaml(recipe))
        except OSError as error:
            raise RecipeError(f"{self.path} can't be written: {error.strerror or error}") from None

    @contextmanager
    def dropped_at_failure(self) -> Iterator[None]:
        """What is refused was not launched; an earlier launch may go on, and stays the newest."""
        try:
            yield
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Remove it, and what would be empty without it: nothing was launched."""
        shutil.rmtree(self.path, ignore_errors=True)
        remove_empty(self.path.parent)


def remove_empty(folder: Path) -> None:
    """Remove a folder, and those above it, as far as nothing is in them."""
    with suppress(OSError):
        for each in (folder, *folder.parents):
            each.rmdir()
