"""How the model is spread over ranks."""

from __future__ import annotations

from composer.utils.parallelism import FSDP2Config

from train.recipe import Recipe


def parallelism(recipe: Recipe) -> dict[str, FSDP2Config]:
    """FSDP2 over all ranks, on one rank too: there is then one path through training and one checkpoint format."""
    return {"fsdp": FSDP2Config(state_dict_type="sharded")}
