"""The model's weights in a checkpoint: read and written tensor by tensor, or loaded into a sharded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from train.checkpoints.safe_reader import SafeReader, load_tensors, quiet

MODEL = "model."  # before a name in the trained model: the decoder and what is counted beside it
PREFIX = f"{MODEL}model."  # before a name in the decoder


class CheckpointWeights:
    """The tensors of the model in a checkpoint's folder, by the names that they have in the model.

    Raises:
        RecipeError: the checkpoint is damaged, or no checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._reader = SafeReader(checkpoint)
        tensors = self._reader.tensors
        ours = {name.removeprefix(PREFIX): entry for name, entry in tensors.items() if name.startswith(PREFIX)}
        self.shapes = {name: entry.size for name, entry in ours.items()}
        self.dtypes = {name: entry.properties.dtype for name, entry in ours.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, put together from its shards."""
        tensor = torch.empty(self.shapes[name], dtype=self.dtypes[name])
        self.load({name: tensor}, no_dist=True)
        return tensor

    def load(self, into: Mapping[str, Tensor], no_dist: bool = False) -> None:
        """Fills the tensors, which may be sharded over ranks and of another dtype; each rank reads its share.

        Raises:
            RecipeError: it has no such tensor, or a file of the checkpoint is missing or damaged.
        """
        load_tensors(self._reader, {PREFIX + name: tensor for name, tensor in into.items()}, no_dist=no_dist)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Fills the decoder of a `DbrxComposerModel`, sharded or not, from a checkpoint; called on every rank.

    Buffers that the checkpoint does not have, such as biases of experts that it was trained without, stay as they are.

    Raises:
        RecipeError: the checkpoint is damaged, or its weights are not this model's.
    """
    named = cast(dict[str, Tensor], get_model_state_dict(model))
    tensors = {name.removeprefix("model."): tensor for name, tensor in named.items() if name.startswith("model.")}
    weights = CheckpointWeights(checkpoint)
    for name in buffer_names(model) - weights.shapes.keys():
        tensors.pop(name, None)
    weights.load(tensors)


def buffer_names(model: nn.Module) -> set[str]:
    """Of the decoder's buffers, without what activation checkpointing adds."""
    names = (name.replace("_checkpoint_wrapped_module.", "") for name, _ in model.named_buffers())
    return {name.removeprefix("model.") for name in names}


def write_weights(
    checkpoint: Path,
    shapes: Mapping[str, torch.Size],
    dtypes: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes a checkpoint of weights alone, a file for each tensor; `read` is asked for one after the other.

    `report` is told the bytes of each tensor read.
    """
    outlines = {PREFIX + name: torch.empty(shape, dtype=dtypes[name], device="meta") for name, shape in shapes.items()}
    # Single files would keep every tensor until the end. Nothing is copied ahead, for the same reason.
    writer = dcp.FileSystemWriter(checkpoint, single_file_per_rank=False, per_thread_copy_ahead=0)
    with quiet():
        dcp.save(outlines, storage_writer=writer, planner=_OneByOne(read, report), no_dist=True)


class _OneByOne(DefaultSavePlanner):
    """Looks a tensor up when it is written, and not before."""

    def __init__(self, read: Callable[[str], Tensor], report: Callable[[int], None]) -> None:
        super().__init__()
        self._read = read
        self._report = report

    def lookup_object(self, index: MetadataIndex) -> Any:
        tensor = self._read(index.fqn.removeprefix(PREFIX))
        self._report(tensor.nbytes)
        return tensor
