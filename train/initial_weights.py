"""A run that begins with given weights: do they fit its recipe?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from data.manifest import Manifest
from data.tokenizer import Tokenizer
from train.changes import OF_SHAPE
from train.checkpoints.contents import dataset_tokenizer, find_checkpoint, read_contents, read_model
from train.checkpoints.names import newest_checkpoint
from train.errors import RecipeError
from train.recipe import Recipe
from train.run_directory import RunDirectory
from train.schema import Problem, join

KEY = "initial_weights"
# Keys that change what the same weights compute: other values can be meant, such as a longer context.
OF_MEANING = {
    "attn_config.clip_qkv", "attn_config.rope_theta", "ffn_config.activation", "ffn_config.moe_top_k",
    "ffn_config.moe_normalize_expert_weights", "ffn_config.moe_bias_update_rate",
}  # fmt: skip


def initial_weights_problems(recipe: Recipe, manifest: Manifest) -> Iterator[Problem]:
    """Where the weights that the recipe names are no weights for its model or for the tokens of its dataset."""
    try:
        checkpoint = weights_to_begin_with(recipe)
        if checkpoint is None:
            return
        for key, theirs, ours in differences(recipe, checkpoint):
            if key in OF_SHAPE:
                yield f"model.{key}", f"expected {theirs}, as the weights in {checkpoint} have it, found {ours}"
        if tokens_differ(recipe, manifest, read_contents(checkpoint).tokenizer):
            yield KEY, f"the weights in {checkpoint} were trained on other tokens than those of {recipe.dataset.path}"
    except RecipeError as error:
        yield KEY, str(error)


def initial_weights_warnings(recipe: Recipe) -> Iterator[Problem]:
    """Where the weights were trained to mean something else."""
    checkpoint = weights_to_begin_with(recipe)
    for key, theirs, ours in differences(recipe, checkpoint) if checkpoint else ():
        if key in OF_MEANING or key.startswith("rope_parameters."):
            yield (
                f"model.{key}",
                f"the weights in {checkpoint} were trained with {theirs}, this run has {ours}",
            )


def weights_to_begin_with(recipe: Recipe) -> Path | None:
    """The checkpoint that the recipe names; None if it names none, or if the run has begun.

    Raises:
        RecipeError: there is none where the recipe says.
    """
    if recipe.initial_weights is None or newest_checkpoint(RunDirectory.of(recipe).checkpoints):
        return None
    return find_checkpoint(Path(recipe.initial_weights))


def tokens_differ(recipe: Recipe, manifest: Manifest, theirs: Tokenizer | None) -> bool:
    """Whether an id means something else. Further special tokens, or another spelling of the pattern, change none."""
    if theirs is None or theirs.fingerprint == manifest.tokenizer.fingerprint:
        return False
    ours = dataset_tokenizer(recipe.dataset, manifest)
    return (theirs.ranks, theirs.end_of_text) != (ours.ranks, ours.end_of_text)


def differences(recipe: Recipe, checkpoint: Path) -> Iterator[tuple[str, Any, Any]]:
    """(key of the model, the weights' value, the recipe's value)."""
    theirs = dict(leaves(read_model(checkpoint)))
    return ((key, theirs[key], value) for key, value in leaves(recipe.model) if theirs[key] != value)


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value, key = getattr(config, field.name), join(path, field.name)
        if is_dataclass(value):
            yield from leaves(value, key)
        else:
            yield key, getattr(value, "value", value)
