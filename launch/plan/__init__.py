"""`brickyard plan`: what a run will read, before it is paid for."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from data.manifest import Manifest
from data.mixture.plan import Plan
from data.patience import patient, silent
from launch.plan.samples import print_samples, read_range
from launch.plan.tables import show, show_recipe
from train.cache import parse_size
from train.curriculum.build import build_plan
from train.errors import NoDataset, RecipeError
from train.history import continue_run
from train.inputs import default_ranks, read_run
from train.places import Steps
from train.plan.page import write_page
from train.plan.summary import count_ahead, summarise, summarise_recipe
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe
from train.run_directory import RunDirectory


def plan_command(
    path: Path,
    overrides: Sequence[str],
    *,
    ranks: int | None = None,
    memory: str | None = None,
    as_json: bool = False,
    samples: str | None = None,
    html: str | None = None,
) -> int:
    """Say what the recipe at `path` will read. Returns the exit code.

    Args:
        ranks: that will train it; None for `default_ranks`.
        memory: of the device of each, such as 80gb.
        as_json: for programs.
        samples: `A:B`; list these samples instead.
        html: write a page to this file instead; "" for RUN_DIR/plan.html.

    Raises:
        RecipeError, DataError: the recipe, the dataset or an option is wrong.
    """
    if html is not None and (as_json or samples):
        raise RecipeError("--html writes a page and prints nothing else; leave out --json and --samples")
    limit = None if memory is None else read_memory(memory)
    try:
        recipe, manifest = read_run(path, overrides, ranks, planned=True)
    except NoDataset as missing:
        if not (as_json or samples or html is not None):
            recipe = read_recipe(Recipe, RecipeSource(path, tuple(overrides)))
            show_recipe(summarise_recipe(recipe, ranks or default_ranks(recipe), limit), screen())
        raise NoDataset(f"{missing}; or say in dataset.planned_tokens what it is to have") from None
    plan, steps = plan_of(recipe, manifest)
    say = patient(lambda line: print(f"plan: {line}", file=sys.stderr, flush=True))
    if samples is not None:
        start, stop = read_range(samples, recipe)
        count_ahead(plan, recipe, start, say)
        print_samples(plan, start, stop, as_json=as_json, say=silent if sys.stdout.isatty() else say)
        return 0
    summary = summarise(recipe, manifest, plan, ranks or default_ranks(recipe), limit, say, steps)
    if html is not None:
        page = Path(html) if html else RunDirectory.of(recipe).path / "plan.html"
        write_page(page, recipe, plan, summary)
        print(f"plan: {page}")
    elif as_json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary, plan, screen())
    return 0


def screen() -> Console:
    return Console(highlight=False, markup=False)


def read_memory(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise RecipeError(f"--memory: {error}") from None


def plan_of(recipe: Recipe, manifest: Manifest) -> tuple[Plan, Steps]:
    """What `brickyard train` would follow: if the run has begun, what it has delivered counts."""
    run = RunDirectory.of(recipe)
    try:
        run.check_same_run(recipe, manifest)
        plan, history = continue_run(run, recipe, manifest)
        return plan, Steps.of(recipe, run.steps_done(), history.samples)
    except RecipeError as refusal:
        print(f"plan: this is how a new run would go, which `brickyard train` would refuse: {refusal}", file=sys.stderr)
        return build_plan(recipe, manifest), Steps.of(recipe)
