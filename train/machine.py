"""What a recipe asks of the machine that it is trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

from model.config import AttentionImplementation
from train.recipe import Recipe
from train.schema import Problem


def machine_problems(recipe: Recipe) -> Iterator[Problem]:
    """What this machine does not have. Asked before training only: a plan can be looked at anywhere."""
    if recipe.model.attn_implementation is not AttentionImplementation.flash_attention_2:
        return
    key = "model.attn_implementation"
    if importlib.util.find_spec("flash_attn") is None:
        yield key, "flash_attention_2 needs the flash-attn package, which is not installed; expected sdpa or eager"
        return
    import torch  # two seconds, which no other recipe need wait for

    if not torch.cuda.is_available():
        yield key, "flash_attention_2 needs a GPU, and there is none; expected sdpa or eager"
