"""Grouped-query attention with rotary positions and clamped projections."""

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class GroupedQueryAttention(nn.Module):
    """Causal self-attention in which `n_heads / kv_n_heads` query heads share a key and a value head.

    One fused projection `Wqkv` gives queries, keys and values in that order, clamped to `clip_qkv`. The names and the
    layout of the weights are those of transformers' `DbrxAttention`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.kv_n_heads = config.attn_config.kv_n_heads
        self.head_dim = config.head_dim
        self.clip_qkv = config.attn_config.clip_qkv
        self.attn_pdrop = config.attn_config.attn_pdrop
        self.rope_theta = config.attn_config.rope_theta
        out_features = (self.n_heads + 2 * self.kv_n_heads) * self.head_dim
        self.Wqkv = nn.Linear(config.d_model, out_features, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Returns [B, T, D]: what each token gathers from itself and those before it in its sample."""
        B, T, D = x_BTD.shape
        qkv_BTX = self.Wqkv(x_BTD)
        if self.clip_qkv is not None:
            qkv_BTX = qkv_BTX.clamp(-self.clip_qkv, self.clip_qkv)
        heads_BTXC = qkv_BTX.view(B, T, -1, self.head_dim)
        qk_BTXC, v_BTGC = heads_BTXC.split([self.n_heads + self.kv_n_heads, self.kv_n_heads], dim=2)
        qk_BTXC = rotate(qk_BTXC, *rotary_table(T, self.head_dim, self.rope_theta, x_BTD.device))
        q_BTHC, k_BTGC = qk_BTXC.split([self.n_heads, self.kv_n_heads], dim=2)
        y_BHTC = nn.functional.scaled_dot_product_attention(
            q_BTHC.transpose(1, 2),
            k_BTGC.transpose(1, 2),
            v_BTGC.transpose(1, 2),
            dropout_p=self.attn_pdrop if self.training else 0.0,
            is_causal=True,
            enable_gqa=self.kv_n_heads != self.n_heads,
        )
        return self.out_proj(y_BHTC.transpose(1, 2).reshape(B, T, D))


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each fp32 [T, 1, R], of position * theta ** (-2r / head_dim), in radians (arXiv 2104.09864).

    It is worked out anew by each layer: that costs microseconds, and a buffer would have to survive meta-device
    initialisation, sharding and casts to bf16.
    """
    frequency_R = theta ** -(torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle_T1R = torch.arange(length, device=device, dtype=torch.float32)[:, None, None] * frequency_R
    return angle_T1R.cos(), angle_T1R.sin()


def rotate(x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """Turns channel pair (r, r + R) of each head by its position's angle; same shape and dtype."""
    return _Rotate.apply(x_BTXC, cos_T1R, sin_T1R)


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the rotation by the opposite angle: nothing of x is kept."""

    @staticmethod
    def forward(ctx, x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1R, sin_T1R)
        return _turn(x_BTXC, cos_T1R, sin_T1R)

    @staticmethod
    def backward(ctx, grad_BTXC: Tensor) -> tuple[Tensor, None, None]:
        cos_T1R, sin_T1R = ctx.saved_tensors
        return _turn(grad_BTXC, cos_T1R, -sin_T1R), None, None


def _turn(x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    first_BTXR, second_BTXR = x_BTXC.chunk(2, dim=-1)
    y_BTXC = torch.empty(x_BTXC.shape, dtype=cos_T1R.dtype, device=x_BTXC.device)
    y_first, y_second = y_BTXC.chunk(2, dim=-1)
    torch.mul(first_BTXR, cos_T1R, out=y_first).addcmul_(second_BTXR, sin_T1R, value=-1)
    torch.mul(second_BTXR, cos_T1R, out=y_second).addcmul_(first_BTXR, sin_T1R)
    return y_BTXC.to(x_BTXC.dtype)
