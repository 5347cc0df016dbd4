"""The experts' parameters: one layout and one set of names for every implementation."""

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class ExpertWeights(nn.Module):
    """w1 (gate), v1 (up) and w2 (down), each [n_experts * ffn_hidden_size, d_model]: the layout of MegaBlocks and of
    DBRX's Hugging Face weights. Expert e owns rows e * ffn_hidden_size up to (e + 1) * ffn_hidden_size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = config.ffn_config.moe_num_experts * config.ffn_config.ffn_hidden_size
        self.w1, self.v1, self.w2 = (nn.Parameter(torch.empty(rows, config.d_model)) for _ in range(3))

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (w1, v1, w2), each [E * F, D], for the experts that this rank holds."""
        return self.w1, self.v1, self.w2
