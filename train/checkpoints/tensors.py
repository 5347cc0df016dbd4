"""The tensors of a run: its model and its optimizer, written by all ranks together and loaded in place.

They are in torch's sharded format (torch.distributed.checkpoint), which loads again on another number of ranks, however
each rank's share is cut.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import xxhash
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from train.checkpoints.checksums import Checksum
from train.checkpoints.weights import MODEL

OPTIMIZER = "optimizer."


def tensors_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Every tensor that training goes on from, by its name in a checkpoint; the tensors themselves, no copies.

    An optimizer that has made no step yet is given its state here, as of no step. Its parameter groups' values are the
    recipe's.
    """
    weights = cast(dict[str, Tensor], get_model_state_dict(model))
    is_new = not optimizer.state
    slots = cast(dict[str, dict[str, Tensor]], get_optimizer_state_dict(model, optimizer)["state"])
    if is_new:  # torch has made a step without gradients, which counted
        for kept in slots.values():
            kept["step"].zero_()
    moments = {f"{name}.{slot}": tensor for name, kept in slots.items() for slot, tensor in kept.items()}
    return {
        **{f"{MODEL}{name}": tensor for name, tensor in weights.items()},
        **{f"{OPTIMIZER}{name}": tensor for name, tensor in moments.items()},
    }


class HostCopy:
    """Memory of this machine for a copy of this rank's share of all tensors, kept from save to save."""

    def __init__(self) -> None:
        self._copies: dict[str, Tensor] = {}

    def of(self, tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """What copies each tensor's local part over the copy before, in any thread.

        It waits for what the device has been asked to do so far, and may go on beside what it is asked to do next, as
        long as that changes no tensor before the copy has been returned.
        """
        stream = None
        if torch.cuda.is_available():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())

        def copy() -> dict[str, Tensor]:
            with torch.cuda.stream(stream):
                for name, tensor in tensors.items():
                    self._copy(name, tensor.detach())
            if stream:
                stream.synchronize()
            return self._copies

        return copy

    def _copy(self, name: str, tensor: Tensor) -> None:
        part = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        copy = self._copies.get(name)
        if copy is None or copy.shape != part.shape:
            # Pinned, a GPU writes there by itself, all tensors at once.
            copy = self._copies[name] = torch.empty_like(part, device="cpu", pin_memory=part.is_cuda)
        copy.copy_(part, non_blocking=True)


def write_tensors(
    folder: Path, tensors: Mapping[str, Tensor], copies: Mapping[str, Tensor], group: dist.ProcessGroup
) -> dict[str, Checksum]:
    """Writes `copies` as what `tensors` held when they were made; called on every rank. Returns this rank's files.

    Raises:
        torch.distributed.checkpoint.CheckpointException: on every rank, if any rank could not write.
    """
    # Nothing is copied ahead, for it lies here already; torch would look for a GPU to copy from.
    writer = dcp.FileSystemWriter(folder, per_thread_copy_ahead=0)
    writer.fs = files = _HashedFiles()
    dcp.save(dict(tensors), storage_writer=writer, planner=_Copied(copies), process_group=group)
    return {name: checksum for name, checksum in files.written.items() if not name.startswith(".")}


class _Copied(DefaultSavePlanner):
    """Plans with the tensors of the run, and takes what they hold from the copies."""

    def __init__(self, copies: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._copies = copies

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self._copies[index.fqn]


class _HashedFiles(FileSystem):
    """Files whose checksum is known once they are written: they need not be read again for it."""

    def __init__(self) -> None:
        self.written: dict[str, Checksum] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb"
        with _HashedFile(io.FileIO(path, "wb")) as stream:
            yield stream
            self.written[Path(path).name] = Checksum(stream.size, stream.digest.hexdigest())


class _HashedFile(io.BufferedWriter):
    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.digest = xxhash.xxh3_128()
        self.size = 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return super().write(data)
