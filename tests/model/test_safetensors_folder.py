"""Safetensors folders: what is written is what the library reads, and a folder that is not whole is refused."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.errors import ModelError
from model.safetensors_folder import INDEX, SINGLE, SafetensorsFolder, write_safetensors

TENSORS = {f"layer.{number}": torch.randn(number + 1, 7) for number in range(6)} | {"norm": torch.randn(7)}
FIRST, LAST = "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"


def write(folder: Path, limit: int, dtype: torch.dtype = torch.float32) -> list[int]:
    sizes: list[int] = []
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    write_safetensors(folder, shapes, dict.fromkeys(shapes, dtype), TENSORS.__getitem__, limit, sizes.append)
    return sizes


def read_all(folder: Path) -> dict[str, Tensor]:
    opened = SafetensorsFolder(folder)
    return {name: opened.read(name) for name in opened.tensors}


def assert_equal(found: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype is dtype
        assert found[name].equal(tensor.to(dtype)), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_file_is_what_the_library_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    sizes = write(tmp_path, 10_000, dtype)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert sizes == [tensor.numel() * dtype.itemsize for tensor in TENSORS.values()]
    loaded = load_file(tmp_path / SINGLE)
    assert {tensor.dtype for tensor in loaded.values()} == {dtype}
    assert all(loaded[name].equal(tensor.to(dtype)) for name, tensor in TENSORS.items())
    assert_equal(read_all(tmp_path), dtype)


def test_each_tensor_has_its_dtype(tmp_path: Path) -> None:
    """Of an odd number of elements some, which half-precision ones would leave at an odd multiple of two bytes."""
    shapes = {name: tensor.shape for name, tensor in TENSORS.items()}
    dtypes = {name: (torch.bfloat16, torch.float32)[place % 2] for place, name in enumerate(TENSORS)}
    write_safetensors(tmp_path, shapes, dtypes, TENSORS.__getitem__, 10_000)
    for found in (read_all(tmp_path), load_file(tmp_path / SINGLE)):
        assert {name: tensor.dtype for name, tensor in found.items()} == dtypes
        assert all(found[name].equal(tensor.to(dtypes[name])) for name, tensor in TENSORS.items())


def test_several_files_hold_at_most_the_limit(tmp_path: Path) -> None:
    write(tmp_path, 300)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    assert list(index["weight_map"]) == list(TENSORS)
    for file in set(index["weight_map"].values()):
        assert sum(tensor.nbytes for tensor in load_file(tmp_path / file).values()) <= 300
    assert_equal(read_all(tmp_path))


def test_a_tensor_above_the_limit_gets_a_file_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert len([*tmp_path.glob("model-*-of-00007.safetensors")]) == 7
    assert_equal(read_all(tmp_path))


def test_tensors_come_in_parts(tmp_path: Path) -> None:
    write(tmp_path, 300)
    parts = [*SafetensorsFolder(tmp_path).parts("layer.4", 2)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.cat(parts).equal(TENSORS["layer.4"])


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_truncated_file(tmp_path: Path, size: int) -> None:
    write(tmp_path, 300)
    cut(tmp_path / LAST, size)
    with pytest.raises(ModelError, match=f"{LAST} is truncated or damaged .*; fetch it again$"):
        SafetensorsFolder(tmp_path)


def test_a_header_that_is_too_long(tmp_path: Path) -> None:
    write(tmp_path, 10_000)
    (tmp_path / SINGLE).write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(ModelError, match="truncated or damaged"):
        SafetensorsFolder(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path, 300)
    (tmp_path / FIRST).unlink()
    with pytest.raises(ModelError, match=f"{FIRST} is missing, and {INDEX} names it"):
        SafetensorsFolder(tmp_path)


def test_an_index_that_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, 300)
    index = json.loads((tmp_path / INDEX).read_text())
    for weight_map, sentence in [
        ({**index["weight_map"], "norm": FIRST}, f"{FIRST} lacks norm, which {INDEX} says it has"),
        ({"norm": "../elsewhere.safetensors"}, "names '../elsewhere.safetensors', which is no file beside it"),
        ({"norm": 3}, "is damaged .no weight_map."),
        (None, "is damaged .no weight_map."),
    ]:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=sentence):
            SafetensorsFolder(tmp_path)
    (tmp_path / INDEX).write_text("half an ind")
    with pytest.raises(ModelError, match=f"{INDEX} is no valid JSON"):
        SafetensorsFolder(tmp_path)


def test_no_weights_pickled_weights_and_other_types(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"has neither {SINGLE} nor {INDEX}$"):
        SafetensorsFolder(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match="its pickled weights are not read"):
        SafetensorsFolder(tmp_path)
    save_file({"norm": torch.zeros(3, dtype=torch.int8)}, tmp_path / SINGLE)
    with pytest.raises(ModelError, match="norm: expected F32, BF16, F16, found I8"):
        SafetensorsFolder(tmp_path)
