"""The plan as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.mixture.plan import Plan
from data.page.shell import whole_page
from train.errors import RecipeError
from train.plan.sections import headline, sections
from train.recipe import Recipe
from train.run_directory import write_whole


def write_page(path: Path, recipe: Recipe, plan: Plan, summary: dict[str, Any]) -> None:
    """Write the page, whole or not at all; its folder is made.

    Raises:
        RecipeError: it can't be written there.
    """
    page = whole_page(
        name=summary["run_name"],
        state=f"A plan: {summary['steps']:,} steps of {summary['tokens_per_step']:,} tokens.",
        cards=headline(summary),
        domains=list(summary["domains"]),
        sections=sections(recipe, plan, summary),
        notes=["Written by <code>brickyard plan --html</code>."],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page)
    except OSError as error:
        raise RecipeError(f"can't write {path}: {error.strerror}") from None
