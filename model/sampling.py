"""Text from a model: one token after the other, each drawn from the model's own distribution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.dbrx import DbrxForCausalLM
from model.documents import find_documents


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn."""

    temperature: float = 1.0  # logits are divided by it; 0: the likeliest token
    top_p: float = 1.0  # only the likeliest tokens that together have this probability (nucleus, arXiv 1904.09751)
    seed: int = 0


@torch.inference_mode()
def sample(
    model: DbrxForCausalLM,
    prompt: Sequence[int],
    allowed: Sequence[int],
    count: int,
    sampling: Sampling,
    end_of_text: int,
) -> Iterator[int]:
    """Yields up to `count` token ids of `allowed` that follow the prompt, which has at least one.

    Each is worked out from the last max_seq_len tokens anew: there is no cache of keys and values, so its time grows
    with what came before, and the result is what training computes. The model should be in eval mode.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    allowed_A = torch.tensor(sorted(allowed), device=device)
    tokens = [*prompt]
    for _ in range(count):
        window_1T = torch.tensor([tokens[-model.config.max_seq_len :]], device=device)
        if not model.config.attend_across_documents:
            window_1T = last_document(window_1T, end_of_text)
        x_1TD, *_ = model.transformer(window_1T)
        logits_V = model.lm_head(x_1TD[:, -1:])[0, 0].float()
        tokens.append(int(allowed_A[draw(logits_V[allowed_A], sampling, generator)]))
        yield tokens[-1]


def last_document(tokens_1T: Tensor, end_of_text: int) -> Tensor:
    """All that the last token attends to where attention stops at a document's end."""
    starts_T = find_documents(tokens_1T, end_of_text).starts_BT[0]
    return tokens_1T[:, int(starts_T.nonzero()[-1]) :]


def draw(logits_A: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """An index into the logits."""
    if sampling.temperature < 1e-30:  # divided by less, logits would be no fp32 numbers
        return int(logits_A.argmax())
    probability_A, order_A = (logits_A / sampling.temperature).softmax(dim=-1).sort(descending=True, stable=True)
    before_A = probability_A.cumsum(dim=-1) - probability_A
    kept_A = probability_A * (before_A < sampling.top_p)  # the likeliest always stays
    return int(order_A[torch.multinomial(kept_A, 1, generator=generator)])
