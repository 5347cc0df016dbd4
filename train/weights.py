"""The model's weights in a checkpoint: read and written tensor by tensor, or loaded into a sharded model.

Nothing is unpickled but the classes of torch's own metadata, so a checkpoint from elsewhere can run no code.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from train.errors import RecipeError

METADATA = ".metadata"
PREFIX = "state.model.model."  # Composer's name for the decoder in a run's checkpoint
OF_METADATA = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (
        "Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "BytesStorageMetadata",
        "ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
    )),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("collections", "OrderedDict"),
}  # fmt: skip


class CheckpointWeights:
    """The tensors of the model in a checkpoint's folder, by the names that they have in the model.

    Raises:
        RecipeError: the checkpoint is damaged, or no checkpoint.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self._reader = SafeReader(checkpoint)
        entries = self._reader.read_metadata().state_dict_metadata
        tensors = {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}
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
            RecipeError: a file of the checkpoint is missing or damaged.
        """
        with quiet():
            try:
                dcp.load(
                    {PREFIX + name: tensor.detach() for name, tensor in into.items()},
                    storage_reader=self._reader,
                    no_dist=no_dist,
                )
            except dcp.CheckpointException as error:
                raise RecipeError(f"{self.checkpoint} is damaged: {first_reason(error)}; go back to another") from None


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
    for name, tensor in tensors.items():
        if weights.shapes.get(name) != tensor.shape:
            found = [*weights.shapes[name]] if name in weights.shapes else "nothing"
            raise RecipeError(f"{checkpoint}: {name}: the model asks for {[*tensor.shape]}, found {found}")
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


class SafeReader(dcp.FileSystemReader):
    """Reads a checkpoint's metadata with the classes of `OF_METADATA` and none other, once.

    torch itself reads the tensors with `weights_only=True`; what is no tensor is not read.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._metadata = _read_metadata(checkpoint / METADATA)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        storage = self._metadata.storage_meta or StorageMeta()
        storage.load_id = self.load_id
        self._metadata.storage_meta = storage
        return self._metadata


def _read_metadata(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            metadata = _Unpickler(file).load()
    except OSError as error:
        raise RecipeError(f"can't read {path} ({error.strerror}); is this a checkpoint?") from None
    except pickle.UnpicklingError as error:
        raise RecipeError(f"{path} is damaged: {error}") from None
    except (EOFError, AttributeError, IndexError, TypeError, ValueError, KeyError, ImportError) as error:
        raise RecipeError(f"{path} is damaged ({type(error).__name__}); go back to another checkpoint") from None
    if not isinstance(metadata, Metadata):
        raise RecipeError(f"{path} is damaged (it holds no metadata); go back to another checkpoint")
    return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" and "." not in name else None
        if (module, name) in OF_METADATA or isinstance(dtype, torch.dtype):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs; it is not opened")


def first_reason(error: dcp.CheckpointException) -> str:
    """What went wrong on the first rank on which something did."""
    cause = next(iter(error.failures.values()))[0]
    if isinstance(cause, OSError) and cause.filename:
        return f"can't read {cause.filename} ({cause.strerror})"
    return " ".join(str(cause).split()).partition(". ")[0] or "a file of it ends early"


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's remark that this is one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
