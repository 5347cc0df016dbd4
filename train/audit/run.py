"""What an audit needs of a run directory."""

from __future__ import annotations

from dataclasses import dataclass

from data.manifest import FILE, Manifest
from data.mixture.plan import Plan
from train.audit.records import FOLDER
from train.audit.starts import RecordedStart, read_starts
from train.errors import RecipeError
from train.history import plan_of_run, read_history
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe
from train.run_directory import RunDirectory


@dataclass(frozen=True)
class RunPlan:
    """What a run was to be given.

    Attributes:
        samples: that the newest checkpoint was trained on.
        fingerprints: {first sample: the plan's fingerprint from there on}, in order.
    """

    recipe: Recipe
    manifest: Manifest
    plan: Plan
    samples: int
    fingerprints: dict[int, str]

    def fingerprint_at(self, sample: int) -> str:
        return next(print for start, print in reversed(self.fingerprints.items()) if start <= sample)


def read_run_plan(run: RunDirectory) -> RunPlan:
    """The plan that a run has followed up to its newest checkpoint, through every change of its curriculum.

    Raises:
        RecipeError: this is no run's folder, there is no checkpoint yet, or the plan can't be worked out again.
        DataError: its manifest can't be read.
    """
    for name in (run.recipe.name, FILE):
        if not (run.path / name).is_file():
            what = f"holds no {name}, so it is no run's folder" if run.path.is_dir() else "is no folder"
            raise RecipeError(f"{run.path} {what}; `brickyard audit` takes a run's folder, such as runs/demo")
    recipe = read_recipe(Recipe, RecipeSource(run.recipe))
    manifest = Manifest.read(run.path)
    history = read_history(run)
    if history is None:
        raise RecipeError(f"{run.checkpoints} holds no checkpoint; only steps that are saved are sure to count")
    plan = plan_of_run(run, recipe, manifest)
    if plan.fingerprint != history.followed[-1].fingerprint:
        raise RecipeError(
            f"{run.path}: its plan can't be worked out again: it was made by another version of Brickyard, or a file "
            "of the run was changed"
        )
    fingerprints = {followed.start: followed.fingerprint for followed in history.followed}
    return RunPlan(recipe, manifest, plan, history.samples, fingerprints)


def read_run_starts(run: RunDirectory) -> list[RecordedStart]:
    """The run's starts with their records.

    Raises:
        RecipeError: it has none.
    """
    audit = run.path / FOLDER
    starts = read_starts(audit, run.steps_done()) if audit.is_dir() else []
    if not starts:
        raise RecipeError(f"{run.path} holds no records in {FOLDER}/; a run makes them that is trained with audit=true")
    return starts
