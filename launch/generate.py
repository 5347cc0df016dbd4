"""`brickyard generate`: text from a run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from model.sampling import Sampling
from train.checkpoints.contents import find_checkpoint, read_contents
from train.errors import RecipeError
from train.generation import generate, load_model


def generate_command(checkpoint: Path, prompt: str, max_new_tokens: int, sampling: Sampling) -> int:
    """Print what the model writes after the prompt, token by token. Returns the exit code.

    Raises:
        RecipeError, DataError, ModelError: there is no whole checkpoint.
    """
    found = find_checkpoint(checkpoint)
    contents = read_contents(found)
    if contents.tokenizer is None:
        raise RecipeError(f"{found} has no tokenizer: it was imported from a folder without a tokenizer.json")
    text = sys.stdin.buffer.read().decode(errors="replace") if prompt == "-" else prompt
    print(f"generate: {found}", file=sys.stderr)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(found, contents.model, device)
    for piece in generate(model, contents.tokenizer, text, max_new_tokens, sampling):
        print(piece, end="", flush=True)
    print()
    return 0
