"""Weights as safetensors files in a folder, written and read tensor by tensor: no more than one is ever in memory.

A model of more than one file has an index beside them that says which tensor is where, as transformers writes and
reads it. The library has no way to write a file in pieces, so the format's few bytes are written here
(https://huggingface.co/docs/safetensors: length of the header, the header in JSON, the tensors).
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import ModelError
from model.huggingface import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


class Stored(NamedTuple):
    """Where a tensor lies, and what it is."""

    file: Path
    shape: torch.Size
    dtype: torch.dtype


def write_safetensors(
    folder: Path,
    shapes: Mapping[str, torch.Size],
    dtypes: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
    max_shard_bytes: int,
    report: Callable[[int], None] = lambda _: None,
) -> None:
    """Writes the tensors that `read` gives for each name, as its dtype, into files of at most `max_shard_bytes`.

    A tensor larger than that gets a file of its own. `report` is told the bytes of each tensor written.
    """
    sizes = {name: shape.numel() * dtypes[name].itemsize for name, shape in shapes.items()}
    shards = _shards(sizes, max_shard_bytes)
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0], shapes, dtypes, read, report)
        return
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, names in zip(files, shards, strict=True):
        _write_file(folder / file, names, shapes, dtypes, read, report)
    index = {
        "metadata": {"total_size": sum(sizes.values())},
        "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


class SafetensorsFolder:
    """The tensors of a folder; opened, it is known to be whole.

    Raises:
        ModelError: there are no safetensors, or a file is missing, truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.tensors: dict[str, Stored] = {}
        if (folder / INDEX).exists():
            self._open_shards(folder)
        elif (folder / SINGLE).exists():
            self.tensors = _stored_in(folder / SINGLE)
        else:
            pickled = "; its pickled weights are not read, save them as safetensors" if [*folder.glob("*.bin")] else ""
            raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}{pickled}")

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        with safe_open(self.tensors[name].file, framework="pt") as file:
            return file.get_tensor(name).clone()  # what the file gives is a view of it, mapped into memory

    def parts(self, name: str, rows: int) -> Iterator[Tensor]:
        """A tensor in pieces of so many rows."""
        with safe_open(self.tensors[name].file, framework="pt") as file:
            whole = file.get_slice(name)
            for start in range(0, self.tensors[name].shape[0], rows):
                yield whole[start : start + rows]

    def _open_shards(self, folder: Path) -> None:
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise ModelError(f"{folder / INDEX} is damaged (no weight_map); fetch it again")
        stored = {file: _stored_in(_beside(folder, file)) for file in sorted(set(weight_map.values()))}
        for name, file in weight_map.items():
            if name not in stored[file]:
                raise ModelError(f"{folder / file} lacks {name}, which {INDEX} says it has; fetch both again")
            self.tensors[name] = stored[file][name]


def _beside(folder: Path, file: str) -> Path:
    if Path(file).name != file:
        raise ModelError(f"{folder / INDEX} names {file!r}, which is no file beside it")
    return folder / file


def _stored_in(path: Path) -> dict[str, Stored]:
    if not path.exists():
        raise ModelError(f"{path} is missing, and {INDEX} names it; fetch it again")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            kinds = {name: (torch.Size(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}); fetch it again") from None
    for name, (_, dtype) in kinds.items():
        if dtype not in DTYPES:
            raise ModelError(f"{path}: {name}: expected {', '.join(DTYPES)}, found {dtype}")
    return {name: Stored(path, shape, DTYPES[dtype]) for name, (shape, dtype) in kinds.items()}


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """The names file by file, in their order."""
    shards: list[list[str]] = [[]]
    room = limit
    for name, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    return shards


def _write_file(
    path: Path,
    names: Sequence[str],
    shapes: Mapping[str, torch.Size],
    dtypes: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
    report: Callable[[int], None],
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    names = sorted(names, key=lambda name: -dtypes[name].itemsize)  # or one might begin at no multiple of its elements
    for name in names:
        start, end = end, end + shapes[name].numel() * dtypes[name].itemsize
        header[name] = {"dtype": NAMES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            tensor = read(name).to(dtypes[name]).contiguous()
            assert tensor.shape == shapes[name], name
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)
            report(tensor.nbytes)
