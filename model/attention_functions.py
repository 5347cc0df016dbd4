"""Causal attention by the three implementations that `attn_implementation` names.

Each takes queries [B, T, H, C] and keys and values [B, T, G, C], rotated already; `documents` or None, in which case
attention runs across their ends; and the dropout probability. Each returns [B, T, H, C].

Where attention stops at a document's end, none but the reference holds a mask of T x T: on a GPU FlexAttention skips
the blocks between documents, flash-attn takes them as sequences of various lengths, and elsewhere they are attended to
one by one. On a CPU that is also the fastest, unless documents are tiny. As a multiple of the time of attention across
documents, fp32, forward and backward, one core of an AMD EPYC, 8 query heads of 64 channels:

    4 samples of 2,048, documents of 500 tokens on average: one by one 0.49, masked in chunks of 512 queries 0.87
    1 sample of 16,384, documents of 3,000:                 one by one 0.19, masked in chunks 0.30
    16 samples of 256, documents of 15 (4 heads of 32):     one by one 1.39, masked in chunks 1.10
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import dropout, scaled_dot_product_attention

from model.config import AttentionImplementation
from model.documents import Documents

AttentionFunction = Callable[[Tensor, Tensor, Tensor, Documents | None, float], Tensor]


def attention_function(implementation: AttentionImplementation) -> AttentionFunction:
    """The function of that name."""
    functions: dict[AttentionImplementation, AttentionFunction] = {
        AttentionImplementation.sdpa: sdpa,
        AttentionImplementation.eager: eager,
        AttentionImplementation.flash_attention_2: flash,
    }
    return functions[implementation]


def eager(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, documents: Documents | None, dropout_p: float) -> Tensor:
    """The definition, with all T x T weights; the softmax is in fp32."""
    q_BHTC, k_BHTC, v_BHTC = (_heads_first(x, q_BTHC.shape[2]) for x in (q_BTHC, k_BTGC, v_BTGC))
    scores_BHTT = q_BHTC @ k_BHTC.transpose(2, 3) * q_BTHC.shape[-1] ** -0.5
    causal = torch.ones_like(scores_BHTT[:1, :1], dtype=torch.bool).tril()
    visible = causal if documents is None else documents.mask
    weights_BHTT = scores_BHTT.float().masked_fill(~visible, float("-inf")).softmax(dim=-1).to(q_BTHC.dtype)
    return (dropout(weights_BHTT, dropout_p, training=True) @ v_BHTC).transpose(1, 2)


def sdpa(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, documents: Documents | None, dropout_p: float) -> Tensor:
    """PyTorch's kernels, the fastest that the device, the dtype and the shape allow."""
    if documents is None:
        return _causal(q_BTHC, k_BTGC, v_BTGC, dropout_p)
    fits_flex = dropout_p == 0 and q_BTHC.shape[-1] >= 16  # what FlexAttention can't do
    if q_BTHC.is_cuda and fits_flex:
        return flex(q_BTHC, k_BTGC, v_BTGC, documents)
    return one_by_one(q_BTHC, k_BTGC, v_BTGC, documents, dropout_p)


def one_by_one(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, documents: Documents, dropout_p: float) -> Tensor:
    """Document after document."""
    parts = zip(*(x.flatten(0, 1).split(documents.lengths) for x in (q_BTHC, k_BTGC, v_BTGC)), strict=True)
    rows = [_causal(q[None], k[None], v[None], dropout_p)[0] for q, k, v in parts]
    return torch.cat(rows).unflatten(0, q_BTHC.shape[:2])


def flex(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, documents: Documents) -> Tensor:
    """FlexAttention. Compiled on a GPU; on a CPU it has no backward pass, and here serves tests of the mask."""
    attend = _compiled_flex() if q_BTHC.is_cuda else flex_attention
    q, k, v = (x.transpose(1, 2) for x in (q_BTHC, k_BTGC, v_BTGC))
    y = attend(q, k, v, block_mask=documents.block_mask, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(y, Tensor), "nothing else was asked for"
    return y.transpose(1, 2)


def flash(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, documents: Documents | None, dropout_p: float) -> Tensor:
    """The flash-attn package: GPU, fp16 or bf16."""
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    how = {"dropout_p": dropout_p, "causal": True, "deterministic": torch.are_deterministic_algorithms_enabled()}
    if documents is None:
        return flash_attn_func(q_BTHC, k_BTGC, v_BTGC, **how)
    longest = max(documents.lengths)
    rows = (x.flatten(0, 1) for x in (q_BTHC, k_BTGC, v_BTGC))
    ends = (documents.ends, documents.ends, longest, longest)  # of queries, of keys
    y = flash_attn_varlen_func(*rows, *ends, **how)
    return y.unflatten(0, q_BTHC.shape[:2])


def _causal(q_BTHC: Tensor, k_BTGC: Tensor, v_BTGC: Tensor, dropout_p: float) -> Tensor:
    if q_BTHC.is_cuda and q_BTHC.dtype is torch.float32:
        # Of the fused kernels only flash shares heads, and it has no fp32; the third way would write out T x T weights.
        q, k, v = (_heads_first(x, q_BTHC.shape[2]) for x in (q_BTHC, k_BTGC, v_BTGC))
    else:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHC, k_BTGC, v_BTGC))
    grouped = q.shape[1] != k.shape[1]
    y = scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, is_causal=True, enable_gqa=grouped)
    return y.transpose(1, 2)


def _heads_first(x_BTGC: Tensor, n_heads: int) -> Tensor:
    """[B, H, T, C], each key and value head repeated for the query heads that it serves."""
    x_BGTC, times = x_BTGC.transpose(1, 2), n_heads // x_BTGC.shape[2]
    return x_BGTC if times == 1 else x_BGTC.repeat_interleave(times, dim=1)


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)
