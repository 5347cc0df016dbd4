"""Checkpoints are read without trust: nothing is unpickled but torch's own metadata and tensors.

torch writes a checkpoint's index as a pickle, and tensors in a format of its own. What is here opens the first with a
list of the classes that it needs, the second with `weights_only`, and nothing else at all, so that a checkpoint from
elsewhere can run no code.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import ReadItem

from train.checkpoints.contents import METADATA
from train.errors import RecipeError

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


class SafeReader(dcp.FileSystemReader):
    """Reads a checkpoint's metadata with the classes of `OF_METADATA` and none other, once.

    torch itself reads the tensors with `weights_only=True`; what is no tensor is not read.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self.checkpoint = checkpoint
        self._metadata = _read_metadata(checkpoint / METADATA)

    @property
    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """What is said of each tensor, by its name in the checkpoint."""
        entries = self._metadata.state_dict_metadata
        return {name: entry for name, entry in entries.items() if isinstance(entry, TensorStorageMetadata)}

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


class _TensorsOnly(DefaultLoadPlanner):
    """torch unpickles what a checkpoint calls no tensor, whatever it was asked for."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor; it is not opened")


def load_tensors(
    reader: SafeReader, into: Mapping[str, Tensor], *, no_dist: bool = False, group: dist.ProcessGroup | None = None
) -> None:
    """Fills tensors by their names in the checkpoint. They may be sharded otherwise than those that were saved, and of
    another dtype; each rank reads its share.

    Raises:
        RecipeError: a tensor is missing or has another shape, or a file of the checkpoint is damaged.
    """
    known = reader.tensors
    for name, tensor in into.items():
        found = known[name].size if name in known else None
        if found != tensor.shape:
            said = "nothing" if found is None else [*found]
            raise RecipeError(f"{reader.checkpoint}: {name}: the model asks for {[*tensor.shape]}, found {said}")
    with quiet():
        try:
            dcp.load(
                {name: tensor.detach() for name, tensor in into.items()},
                storage_reader=reader,
                planner=_TensorsOnly(),
                no_dist=no_dist,
                process_group=group,
            )
        except dcp.CheckpointException as error:
            raise RecipeError(f"{reader.checkpoint} is damaged: {first_reason(error)}; go back to another") from None


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
