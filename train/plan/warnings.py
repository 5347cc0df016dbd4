"""What a person may not have meant, said before the run is paid for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from data.manifest import Manifest
from data.words import byte_count, join_words, short
from train.curriculum.build import Exhaustion
from train.places import Steps, moment
from train.planned_dataset import PLANNED, SHARD_BYTES
from train.recipe import Recipe


def warnings(recipe: Recipe, steps: Steps, used_up: Sequence[Exhaustion]) -> Iterator[str]:
    """A sentence for each domain that is used up, for each anchor that the run never reaches, and for a router that has
    nothing to learn from."""
    ffn = recipe.model.ffn_config
    if ffn.moe_top_k == 1 and ffn.moe_normalize_expert_weights is not None:
        yield (
            "with moe_top_k 1 and moe_normalize_expert_weights an expert's weight is always 1: the routers learn from "
            "balancing alone; set model.ffn_config.moe_normalize_expert_weights to null"
        )
    for gone in used_up:
        yield (
            f"the domain {gone.domain} is used up {moment(recipe, steps, gone.sample)}, "
            f"after {gone.max_epochs:g} epochs; the other domains take its share"
        )
    for anchor in recipe.curriculum.anchors:
        beyond = recipe.samples(anchor.at) - recipe.end
        if beyond > 0 or (beyond == 0 and anchor.ramp == "step"):
            tokens = short(recipe.end * recipe.max_seq_len)
            yield f"the run ends at {tokens} tokens, before the anchor at {anchor.at} takes over"


def planned_warnings(recipe: Recipe, manifest: Manifest) -> Iterator[str]:
    """A sentence if the dataset is not there."""
    if manifest.recipe_fingerprint == PLANNED:
        yield (
            f"there is no manifest in {recipe.dataset.path}: the sizes of the domains are those of "
            f"dataset.planned_tokens, in shards of {byte_count(SHARD_BYTES)}, nothing held out"
        )


def cache_warnings(recipe: Recipe, domains: dict[str, Any], shards: dict[str, Any]) -> Iterator[str]:
    """A sentence if shards will be deleted to make room, and fetched again when their domain repeats."""
    limit = recipe.dataset.cache_bytes
    size = sum(part["bytes"] for part in shards["domains"].values())
    again = [name for name, domain in domains.items() if domain["repeats"]["count"]]
    if limit is not None and limit < size and again:
        yield (
            f"dataset.cache_limit ({recipe.dataset.cache_limit}) holds less than the {byte_count(size)} of training "
            f"shards: those of {join_words(again)} may be downloaded again in every epoch"
        )
