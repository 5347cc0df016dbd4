"""`brickyard export`: a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from data.huggingface import SpecialIds, write_tokenizer
from launch.new_folder import new_folder
from launch.progress import byte_progress
from model.huggingface import CONFIG_FILE, to_huggingface
from model.parameters import check_shapes, parameter_shapes
from model.safetensors_folder import NAMES, write_safetensors
from train.cache import parse_size
from train.checkpoints.contents import find_checkpoint, read_contents
from train.checkpoints.weights import CheckpointWeights
from train.errors import RecipeError

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in NAMES}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def export_command(checkpoint: Path, out: Path, *, dtype: str | None, max_shard_size: str) -> int:
    """Write the folder OUT and say where it is. Returns the exit code.

    Raises:
        RecipeError, DataError, ModelError: there is no whole checkpoint, or no way to express it, or OUT can't be
            written.
    """
    found = find_checkpoint(checkpoint)
    contents, weights = read_contents(found), CheckpointWeights(found)
    config, tokenizer = contents.model, contents.tokenizer
    kind = DTYPES[dtype] if dtype else weights.dtypes.get("lm_head.weight", torch.float32)
    content = to_huggingface(config, DTYPE_NAMES[kind])
    check_shapes(weights.shapes, config, str(found))
    shapes = parameter_shapes(config)
    dtypes = {name: kind if dtype else weights.dtypes[name] for name in shapes}
    total = sum(shape.numel() * dtypes[name].itemsize for name, shape in shapes.items())
    with new_folder(out) as folder:
        if tokenizer is not None:
            ids = write_tokenizer(folder, tokenizer, config.vocab_size, config.max_seq_len)
            # Not the padding: transformers would never train its row of the embedding, which may be end-of-text's.
            content |= {"bos_token_id": ids.end_of_text, "eos_token_id": ids.end_of_text}
            write_json(folder / "generation_config.json", generation_config(ids))
        write_json(folder / CONFIG_FILE, content)
        with byte_progress("export", total) as report:
            write_safetensors(folder, shapes, dtypes, weights.read, shard_bytes(max_shard_size), report)
    kinds = " and ".join(sorted({DTYPE_NAMES[kind] for kind in dtypes.values()}))
    print(f"export: {found} is in {out}: {total:,} bytes of weights in {kinds}")
    if not config.attend_across_documents:
        print("export: transformers' DBRX attends across documents; give it one document in a sequence")
    if tokenizer is None:
        print("export: without a tokenizer, because the checkpoint was imported without one")
    elif ids.end_of_turn is None:
        print("export: the vocabulary has no ids left for the chat template's marks; it spells them as text")
    return 0


def generation_config(ids: SpecialIds) -> dict[str, object]:
    """Generation ends with a document, or with a turn."""
    ends = [ids.end_of_text] if ids.end_of_turn is None else [ids.end_of_text, ids.end_of_turn]
    return {"bos_token_id": ids.end_of_text, "eos_token_id": ends, "pad_token_id": ids.pad}


def shard_bytes(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise RecipeError(f"--max-shard-size: expected a size such as 5gb, found {text!r}") from None


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
