"""Grouped-query attention with rotary positions and clamped projections."""

import torch
from torch import Tensor, nn

from model.attention_functions import attention_function
from model.config import ModelConfig
from model.documents import Documents
from model.rotary import rotary_table, rotate


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
        self.rope = config.rope
        self.attend = attention_function(config.attn_implementation)
        out_features = (self.n_heads + 2 * self.kv_n_heads) * self.head_dim
        self.Wqkv = nn.Linear(config.d_model, out_features, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x_BTD: Tensor, documents: Documents | None = None) -> Tensor:
        """Returns [B, T, D]: what each token gathers from itself and those before it in its sample, or with documents
        in its document, where positions then begin at 0."""
        B, T, D = x_BTD.shape
        qkv_BTX = self.Wqkv(x_BTD)
        if self.clip_qkv is not None:
            qkv_BTX = qkv_BTX.clamp(-self.clip_qkv, self.clip_qkv)
        heads_BTXC = qkv_BTX.view(B, T, -1, self.head_dim)
        qk_BTXC, v_BTGC = heads_BTXC.split([self.n_heads + self.kv_n_heads, self.kv_n_heads], dim=2)
        positions = torch.arange(T, device=x_BTD.device) if documents is None else documents.positions
        qk_BTXC = rotate(qk_BTXC, *rotary_table(positions, self.head_dim, self.rope))
        q_BTHC, k_BTGC = qk_BTXC.split([self.n_heads, self.kv_n_heads], dim=2)
        y_BTHC = self.attend(q_BTHC, k_BTGC, v_BTGC, documents, self.attn_pdrop if self.training else 0.0)
        return self.out_proj(y_BTHC.reshape(B, T, D))
