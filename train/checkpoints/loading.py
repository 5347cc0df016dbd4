"""A run goes on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from composer import State

from train.checkpoints.safe_reader import SafeReader, load_tensors
from train.checkpoints.state import read_state, restore
from train.checkpoints.tensors import tensors_of


def load_checkpoint(state: State, checkpoint: Path) -> None:
    """Put a trainer where the checkpoint's was, on any number of ranks; called on every rank.

    Raises:
        RecipeError: it is damaged, another version of Brickyard wrote it, or its tensors are not this model's.
    """
    content = read_state(checkpoint)
    load_tensors(SafeReader(checkpoint), tensors_of(state.model, state.optimizers[0]))
    restore(state, content)
