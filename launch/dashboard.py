"""`brickyard dashboard`: the W&B workspace that shows a recipe's runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from train.curriculum.build import resolve_curriculum
from train.errors import RecipeError
from train.inputs import read_run
from train.run_directory import RunDirectory, write_whole

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

FILE = "wandb_workspace.json"
ANSWER = 30  # seconds that W&B has for it


def dashboard_command(path: Path, overrides: Sequence[str]) -> int:
    """Write the workspace as JSON beside the run, and into W&B where the recipe's runs go there. Returns the exit code.

    Raises:
        RecipeError, DataError: the recipe or the dataset is wrong, or W&B does not take it.
    """
    recipe, manifest = read_run(path, overrides, planned=True)
    from train.wandb_run import mode_of  # only now: W&B's client takes a second
    from train.workspace import workspace

    made = workspace(recipe, resolve_curriculum(recipe, manifest).schedule.domains)
    run = RunDirectory.of(recipe)
    file = run.path / FILE
    go_on_with(file, made)
    online = mode_of(recipe) == "online"
    if online:
        save(made)
    run.make()
    write_whole(file, json.dumps(made._spec, indent=1))
    print(f"dashboard: {file}")
    print(f"dashboard: {made.url if online else 'with wandb.mode=online it is written into W&B as well'}")
    return 0


def go_on_with(file: Path, made: Workspace) -> None:
    """If it was written before, that one is changed."""
    if file.exists():
        before = json.loads(file.read_text())
        if before["project"] == made.project:
            made._internal_name, made._internal_id, made.entity = before["name"], before["id"], before["entity"]


def save(made: Workspace) -> None:
    import wandb

    try:
        made.entity = made.entity or wandb.Api(timeout=ANSWER).default_entity or ""
        made.save()
    except Exception as error:  # each layer of W&B's client has its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RecipeError(f"W&B does not take the workspace ({reason}); wandb.mode=offline writes JSON alone") from None
