"""What a person may not have meant, said before the run is paid for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from train.curriculum import Exhaustion, moment
from train.recipe import Recipe
from train.words import short


def warnings(recipe: Recipe, used_up: Sequence[Exhaustion]) -> Iterator[str]:
    """A sentence for each domain that is used up, and for each anchor that the run never reaches."""
    for gone in used_up:
        yield (
            f"the domain {gone.domain} is used up {moment(recipe, gone.sample)}, after {gone.max_epochs:g} epochs; "
            "the other domains take its share"
        )
    for anchor in recipe.curriculum.anchors:
        beyond = recipe.samples(anchor.at) - recipe.end
        if beyond > 0 or (beyond == 0 and anchor.ramp == "step"):
            tokens = short(recipe.end * recipe.max_seq_len)
            yield f"the run ends at {tokens} tokens, before the anchor at {anchor.at} takes over"
