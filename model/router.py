"""Which experts each token visits, and how evenly the tokens spread."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class Routing(NamedTuple):
    """What one layer's router decided."""

    logits_NE: Tensor  # fp32
    probabilities_NE: Tensor  # fp32, softmax of the logits
    weights_NK: Tensor  # fp32, of the chosen experts, normalised as the config says
    experts_NK: Tensor  # int64, the chosen experts
    tokens_per_expert_E: Tensor  # int64, sums to N * K


class Router(nn.Module):
    """A linear layer, a softmax and the top k, all in fp32 whatever the precision around it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ffn_config = config.ffn_config
        self.layer = nn.Linear(config.d_model, config.ffn_config.moe_num_experts, bias=False)

    def forward(self, x_ND: Tensor) -> Routing:
        """Routes each token by itself."""
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = nn.functional.linear(self._jittered(x_ND.float()), self.layer.weight.float())
            probabilities_NE = logits_NE.softmax(dim=-1)
            weights_NK, experts_NK = probabilities_NE.topk(self.ffn_config.moe_top_k, dim=-1)
            weights_NK = self._normalised(weights_NK)
        if self.ffn_config.uniform_expert_assignment:
            experts_NK = _in_turn(experts_NK, self.ffn_config.moe_num_experts)
        tokens_per_expert_E = experts_NK.flatten().bincount(minlength=self.ffn_config.moe_num_experts)
        return Routing(logits_NE, probabilities_NE, weights_NK, experts_NK, tokens_per_expert_E)

    def _jittered(self, x_ND: Tensor) -> Tensor:
        """Only the router sees the noise, as in MegaBlocks; transformers' port multiplies the experts' input too."""
        eps = self.ffn_config.moe_jitter_eps
        if not self.training or not eps:
            return x_ND
        return x_ND * torch.empty_like(x_ND).uniform_(1 - eps, 1 + eps)

    def _normalised(self, weights_NK: Tensor) -> Tensor:
        p = self.ffn_config.moe_normalize_expert_weights
        if p is None:
            return weights_NK
        return weights_NK / weights_NK.norm(p=p, dim=-1, keepdim=True)


def load_balancing_loss(routings: Sequence[Routing], per_layer: bool = False) -> Tensor:
    """The Switch Transformer's auxiliary loss (arXiv 2101.03961, equations 4 to 6), unweighted, fp32 scalar.

    It is E times the dot product of two vectors over the experts, each a mean over tokens: how many of a token's K
    choices fell on the expert, and the probability that the router gave it. An even spread gives K. By default the
    means are over the tokens of all layers taken together, as in transformers' `load_balancing_loss_func`; experts of
    the same number in different layers can then make up for each other. With per_layer it is the mean of the layers'
    own losses, as in MegaBlocks (which also divides by K).
    """
    choices_LE = torch.stack([r.tokens_per_expert_E / len(r.logits_NE) for r in routings])
    probability_LE = torch.stack([r.probabilities_NE.mean(dim=0) for r in routings])
    if not per_layer:
        choices_LE, probability_LE = (t.mean(dim=0, keepdim=True) for t in (choices_LE, probability_LE))
    return choices_LE.shape[1] * (choices_LE * probability_LE).sum(dim=1).mean()


def _in_turn(experts_NK: Tensor, n_experts: int) -> Tensor:
    """Expert 0, 1, 2, ... slot by slot: an even load, for benchmarks."""
    slots_S = torch.arange(experts_NK.numel(), device=experts_NK.device)
    return (slots_S % n_experts).view(experts_NK.shape)
