"""`brickyard import`: a Hugging Face folder as a checkpoint that a run can begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.huggingface import read_tokenizer
from launch.new_folder import new_folder
from launch.progress import byte_progress
from model.errors import ModelError
from model.huggingface import CONFIG_FILE, from_huggingface
from model.parameters import check_shapes
from model.safetensors_folder import SafetensorsFolder
from train.checkpoints.contents import Contents
from train.checkpoints.weights import write_weights
from train.errors import RecipeError

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
ROWS = 4096  # compared at a time


def import_command(folder: Path, out: Path) -> int:
    """Write the checkpoint OUT and say where it is. Returns the exit code.

    Raises:
        RecipeError, DataError, ModelError: the folder is not whole or not DBRX's, or OUT can't be written.
    """
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder")
    config = from_huggingface(folder / CONFIG_FILE)
    weights = SafetensorsFolder(folder)
    stored = {name: tensor for name, tensor in weights.tensors.items() if not name.endswith(".inv_freq")}
    check_shapes({name: tensor.shape for name, tensor in stored.items()}, config, str(folder))
    tokenizer = read_tokenizer(folder)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ModelError(f"{folder}: its tokenizer has {tokenizer.vocab_size:,} ids, its model {config.vocab_size:,}")
    if are_equal(weights, EMBEDDING, HEAD):  # as `export` writes tied ones
        config = replace(config, tie_word_embeddings=True)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    dtypes = {name: tensor.dtype for name, tensor in stored.items()}
    total = sum(shape.numel() * dtypes[name].itemsize for name, shape in shapes.items())
    with new_folder(out) as checkpoint, byte_progress("import", total) as report:
        write_weights(checkpoint, shapes, dtypes, weights.read, report)
        Contents(config, tokenizer).write(checkpoint)
    print(f"import: {folder} is in {out}; a recipe begins with it by `initial_weights: {out}`")
    if tokenizer is None:
        print(f"import: without a tokenizer, because {folder} has no tokenizer.json; `generate` needs one")
    return 0


def are_equal(weights: SafetensorsFolder, one: str, other: str) -> bool:
    """Whether two tensors are bit-equal; looks at a part of each at a time."""
    if weights.tensors[one].dtype != weights.tensors[other].dtype:
        return False
    parts = zip(weights.parts(one, ROWS), weights.parts(other, ROWS), strict=True)
    return all(part.equal(of_other) for part, of_other in parts)
