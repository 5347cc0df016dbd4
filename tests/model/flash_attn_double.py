"""A test double for the flash-attn package, which needs a GPU: its two functions with its layouts, in plain PyTorch.

It takes the arguments by the names and places of flash-attn 2 and is as strict about shapes and dtypes as the real
one, except that it takes fp32.
"""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    *,
    deterministic: bool = False,
) -> Tensor:
    """[batch, length, heads, channels], keys and values with as many heads or fewer."""
    assert causal and q.dim() == k.dim() == 4 and q.shape[2] % k.shape[2] == 0
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(
        q, k, v, dropout_p=dropout_p, scale=softmax_scale, is_causal=True, enable_gqa=True
    ).transpose(1, 2)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    *,
    deterministic: bool = False,
) -> Tensor:
    """[total, heads, channels]; sequence i lies from cu_seqlens[i] to cu_seqlens[i + 1]."""
    assert q.dim() == 3 and cu_seqlens_q.dtype is cu_seqlens_k.dtype is torch.int32
    assert cu_seqlens_q[0] == 0 and cu_seqlens_q[-1] == len(q) and torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert type(max_seqlen_q) is type(max_seqlen_k) is int
    lengths = cu_seqlens_q.diff()
    assert lengths.min() > 0 and lengths.max() <= max_seqlen_q == max_seqlen_k
    parts = zip(*(x.split(lengths.tolist()) for x in (q, k, v)), strict=True)
    return torch.cat(
        [flash_attn_func(a[None], b[None], c[None], dropout_p, softmax_scale, causal)[0] for a, b, c in parts]
    )


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import flash_attn` finds the double."""
    module = ModuleType("flash_attn")
    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func  # type: ignore
    monkeypatch.setitem(sys.modules, "flash_attn", module)
