"""One layer of the decoder: attention, then experts or one dense unit, each on a normalised copy of the residual
stream."""

from torch import Tensor, nn

from model.attention import GroupedQueryAttention
from model.config import ModelConfig
from model.dense import DenseFeedForward
from model.documents import Documents
from model.experts import build_experts
from model.precision import as_autocast
from model.router import Router, Routing


class NormAttentionNorm(nn.Module):
    """The attention half of a block and both its norms, grouped as in DBRX so that the names of weights agree."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.resid_pdrop = config.resid_pdrop
        self.norm_1 = nn.LayerNorm(config.d_model, bias=False)
        self.attn = GroupedQueryAttention(config)
        self.norm_2 = nn.LayerNorm(config.d_model, bias=False)

    def forward(self, x_BTD: Tensor, documents: Documents | None = None) -> tuple[Tensor, Tensor]:
        """Returns the residual stream and its normalised copy for the experts, both [B, T, D]."""
        y_BTD = self.attn(self.norm_1(x_BTD), documents)
        x_BTD = x_BTD + nn.functional.dropout(y_BTD, self.resid_pdrop, self.training)
        return x_BTD, self.norm_2(x_BTD)


class MixtureOfExperts(nn.Module):
    """A router and its experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.router = Router(config)
        self.experts = build_experts(config)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Routing]:
        """Returns the experts' output [B, T, D], and what the router decided and the experts computed."""
        x_ND = x_BTD.flatten(0, 1)
        routing = self.router(x_ND, sequences=len(x_BTD))
        (x_ND,) = as_autocast(x_ND)  # norms come out of autocast in fp32
        y_ND, computed = self.experts(x_ND, routing.weights_NK, routing.experts_NK)
        return y_ND.view(x_BTD.shape), routing._replace(computed=computed)


class Block(nn.Module):
    """Attention, and experts or in the first `first_k_dense_replace` layers one dense unit; what is sharded and
    checkpointed as one.

    layer counts from 0.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.resid_pdrop = config.resid_pdrop
        self.norm_attn_norm = NormAttentionNorm(config)
        is_dense = layer < config.ffn_config.first_k_dense_replace
        self.ffn = DenseFeedForward(config) if is_dense else MixtureOfExperts(config)

    def forward(self, x_BTD: Tensor, documents: Documents | None = None) -> tuple[Tensor, Routing | None]:
        """Returns the residual stream [B, T, D] after this block, and its routing if it has experts."""
        x_BTD, normed_BTD = self.norm_attn_norm(x_BTD, documents)
        y_BTD, routing = self.ffn(normed_BTD)
        return x_BTD + nn.functional.dropout(y_BTD, self.resid_pdrop, self.training), routing
