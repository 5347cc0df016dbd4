"""A place of a run, in each of the units that people think in."""

from __future__ import annotations

from train.recipe import Recipe


def place_of(recipe: Recipe, sample: int) -> dict[str, int]:
    """A sample's index, the tokens before it, and the step that reads it (from 1)."""
    step = sample // recipe.global_train_batch_size + 1
    return {"sample": sample, "tokens": sample * recipe.max_seq_len, "step": step}
