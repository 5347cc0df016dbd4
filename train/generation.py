"""A checkpoint as a model that gives text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from data.tokenizer import Tokenizer
from model.config import AttentionImplementation, ExpertsImplementation, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.initialise import materialise
from model.parameters import check_shapes
from model.sampling import Sampling, sample
from train.checkpoints.weights import CheckpointWeights


def load_model(checkpoint: Path, config: ModelConfig, device: torch.device) -> DbrxForCausalLM:
    """The checkpoint's model, ready to be asked; its weights are read straight into their places.

    Raises:
        RecipeError, ModelError: the checkpoint is damaged, or holds other weights than its config says.
    """
    weights = CheckpointWeights(checkpoint)
    check_shapes(weights.shapes, config, str(checkpoint))
    with torch.device("meta"):
        model = DbrxForCausalLM(runs_anywhere(config))
    materialise(model, device)
    weights.load(model.state_dict(), no_dist=True)
    return model.eval()


def runs_anywhere(config: ModelConfig) -> ModelConfig:
    """The same model in the implementations that need no certain device or package."""
    return replace(
        config,
        attn_implementation=AttentionImplementation.sdpa,
        experts=ExpertsImplementation.torch,
    )


def generate(
    model: DbrxForCausalLM, tokenizer: Tokenizer, prompt: str, max_new_tokens: int, sampling: Sampling
) -> Iterator[str]:
    """Yields what follows the prompt, piece by piece, up to the end of the document.

    An empty prompt begins a document. Text that spells a special token stays text.
    """
    ids = tokenizer.encoding.encode_ordinary(prompt) or [tokenizer.end_of_text]
    allowed = [*tokenizer.ranks.values(), tokenizer.end_of_text]
    return text_of(tokenizer, sample(model, ids, allowed, max_new_tokens, sampling, tokenizer.end_of_text))


def text_of(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens up to end-of-text, as soon as it is known: a character may take several."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        if token == tokenizer.end_of_text:
            break
        if text := decoder.decode(tokenizer.encoding.decode_single_token_bytes(token)):
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest
