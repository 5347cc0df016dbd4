"""A feed-forward layer without experts, for the first blocks: there the experts' load is the slowest to even out
(DeepSeekMoE, arXiv 2401.06066, section 5.1)."""

from torch import Tensor, nn

from model.config import ModelConfig


class DenseFeedForward(nn.Module):
    """A gated linear unit, as each expert is one: w2(silu(w1(x)) * v1(x)), `dense_width` channels inside."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F = config.d_model, config.ffn_config.dense_width
        self.w1, self.v1 = (nn.Linear(D, F, bias=False) for _ in range(2))
        self.w2 = nn.Linear(F, D, bias=False)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, None]:
        """Returns [B, T, D], and None where a mixture of experts returns its routing."""
        return self.w2(nn.functional.silu(self.w1(x_BTD)) * self.v1(x_BTD)), None
