"""The steps that a recipe takes unique documents through, in their order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from data.prepare.duplicates import contamination, lines, near
from data.prepare.duplicates.benchmarks import Contamination
from data.prepare.recipe import PrepareRecipe, content


@dataclass(frozen=True)
class Step:
    """One step; `write(documents, folder, report)` leaves documents.DOCUMENTS and documents.FOUND in the folder."""

    name: str  # what it marks those with that it drops
    depends_on: Any  # JSON of all that decides what it does to given documents
    write: Callable[..., None]


def chosen(recipe: PrepareRecipe, benchmarks: Contamination | None) -> list[Step]:
    """Near duplicates go first: the fewer documents, the fewer lines are repeated. `benchmarks` are the recipe's."""
    steps = []
    if recipe.deduplicate.near is not None:
        near_choice = recipe.deduplicate.near
        steps.append(Step(near.STEP, content(near_choice), partial(near.write, near_choice)))
    if recipe.deduplicate.lines is not None:
        lines_choice = recipe.deduplicate.lines
        steps.append(Step(lines.STEP, content(lines_choice), partial(lines.write, lines_choice)))
    if recipe.decontaminate is not None:
        assert benchmarks is not None
        depends_on = [recipe.decontaminate.max_documents, benchmarks.fingerprint]
        steps.append(
            Step(contamination.STEP, depends_on, partial(contamination.write, recipe.decontaminate, benchmarks))
        )
    return steps
