"""Which experts each token visits, and how evenly the tokens spread."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig


class Routing(NamedTuple):
    """What one layer's router decided, and what its experts made of it."""

    logits_NE: Tensor  # fp32
    probabilities_NE: Tensor  # fp32, softmax of the logits
    weights_NK: Tensor  # fp32, of the chosen experts, normalised as the config says
    experts_NK: Tensor  # int64, the chosen experts
    slots_BE: Tensor  # int64, how many of each sequence's slots each expert was given; sums to N * K
    mean_probability_E: Tensor  # fp32, of each expert over the tokens
    computed: Tensor | None = None  # int64 scalar, slots that this rank's experts computed; they come after the router

    @property
    def tokens_per_expert_E(self) -> Tensor:
        """int64: slots that each expert was given."""
        return self.slots_BE.sum(dim=0)


class Router(nn.Module):
    """A linear layer, a softmax and the top k, all in fp32 whatever the precision around it.

    With `moe_bias_update_rate` each expert has a bias (buffer `expert_bias`, fp32 [E], saved with the model), which is
    added to the probabilities to choose the experts and nowhere else: loss-free balancing (arXiv 2408.15664).
    """

    expert_bias: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ffn_config = config.ffn_config
        n_experts = config.ffn_config.moe_num_experts
        self.layer = nn.Linear(config.d_model, n_experts, bias=False)
        has_bias = config.ffn_config.moe_bias_update_rate is not None
        self.register_buffer("expert_bias", torch.zeros(n_experts, dtype=torch.float32) if has_bias else None)

    def reset_buffers(self) -> None:
        """No bias, as at the beginning; for a model that was built without memory."""
        if self.expert_bias is not None:
            self.expert_bias.zero_()

    def forward(self, x_ND: Tensor, sequences: int = 1) -> Routing:
        """Routes each token by itself; they are those of so many sequences of one length, which are counted apart."""
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = nn.functional.linear(self._jittered(x_ND.float()), self.layer.weight.float())
            probabilities_NE = logits_NE.softmax(dim=-1)
            weights_NK, experts_NK = self._chosen(probabilities_NE)
            weights_NK = self._normalised(weights_NK)
            mean_probability_E = probabilities_NE.mean(dim=0)
        if self.ffn_config.uniform_expert_assignment:
            experts_NK = _in_turn(experts_NK, self.ffn_config.moe_num_experts)
        slots_BE = count(experts_NK.view(sequences, -1), self.ffn_config.moe_num_experts)
        return Routing(logits_NE, probabilities_NE, weights_NK, experts_NK, slots_BE, mean_probability_E)

    @torch.no_grad()
    def move_bias(self, tokens_E: Tensor) -> None:
        """Takes a step of loss-free balancing, if the experts have a bias (arXiv 2408.15664, algorithm 1).

        tokens_E, int64, are the slots that each expert was given in a whole global batch. The bias of an expert with
        fewer than the mean grows by `moe_bias_update_rate`, of one with more it shrinks by as much. Their mean is then
        moved back to 0, which changes no choice and keeps the fp32 numbers small however long the run.
        """
        rate = self.ffn_config.moe_bias_update_rate
        if self.expert_bias is None or rate is None:
            return
        wanted_E = (tokens_E.sum() - len(tokens_E) * tokens_E).sign().to(self.expert_bias)
        self.expert_bias += rate * (wanted_E - wanted_E.mean())

    def _chosen(self, probabilities_NE: Tensor) -> tuple[Tensor, Tensor]:
        """The top k with the bias, and their probabilities without it."""
        if self.expert_bias is None:
            return probabilities_NE.topk(self.ffn_config.moe_top_k, dim=-1)
        experts_NK = (probabilities_NE.detach() + self.expert_bias.float()).topk(self.ffn_config.moe_top_k, dim=-1)[1]
        return probabilities_NE.gather(1, experts_NK), experts_NK

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
        norm_N1 = weights_NK.norm(p=p, dim=-1, keepdim=True)
        # A bias may choose experts whose probabilities, or the powers of them, have been rounded to 0.
        lost_N1 = norm_N1 < torch.finfo(norm_N1.dtype).tiny ** (1 / max(p, 1.0))
        return weights_NK / norm_N1.masked_fill(lost_N1, 1.0)


def load_balancing_loss(
    routings: Sequence[Routing], per_layer: bool = False, tokens_LE: Tensor | None = None
) -> Tensor:
    """The load-balancing loss of a microbatch, unweighted, fp32 scalar; gradients flow through the probabilities.

    tokens_LE, int64, are the slots to take the experts' shares from, if not the microbatch's own: see `spread_loss`.
    """
    if tokens_LE is None:
        tokens_LE = torch.stack([r.tokens_per_expert_E for r in routings])
    probability_LE = torch.stack([r.mean_probability_E for r in routings])
    return spread_loss(tokens_LE, probability_LE, routings[0].experts_NK.shape[1], per_layer)


def spread_loss(tokens_LE: Tensor, probability_LE: Tensor, top_k: int, per_layer: bool = False) -> Tensor:
    """The Switch Transformer's auxiliary loss (arXiv 2101.03961, equations 4 to 6), scalar in probability_LE's dtype.

    It is E times the dot product of two vectors over the experts, each a mean over tokens: how many of a token's K
    choices fell on the expert, and the probability that the router gave it. An even spread gives K. By default the
    means are over the tokens of all layers taken together, as in transformers' `load_balancing_loss_func`; experts of
    the same number in different layers can then make up for each other. With per_layer it is the mean of the layers'
    own losses, as in MegaBlocks (which also divides by K).

    tokens_LE, int64 slots, tell the first mean, and may be of other tokens than the probabilities; a layer without any
    counts as even, whose gradient is 0.
    """
    choices_LE = top_k * shares(tokens_LE, probability_LE.dtype)
    if not per_layer:
        choices_LE, probability_LE = (t.mean(dim=0, keepdim=True) for t in (choices_LE, probability_LE))
    return choices_LE.shape[1] * (choices_LE * probability_LE).sum(dim=1).mean()


def shares(tokens_LE: Tensor, dtype: torch.dtype) -> Tensor:
    """[L, E]: the share of a layer's slots that each expert was given; 1 / E where the layer has none."""
    total_L1 = tokens_LE.sum(dim=1, keepdim=True)
    share_LE = tokens_LE.to(dtype) / total_L1.clamp(min=1)
    return share_LE.where(total_L1 > 0, 1 / tokens_LE.shape[1])


def router_z_loss(routings: Sequence[Routing]) -> Tensor:
    """The router z-loss (ST-MoE, arXiv 2202.08906, equation 5), unweighted, fp32 scalar.

    It is the mean over tokens and layers of the squared log-sum-exp of a token's logits, and keeps the logits small:
    rounding then changes the softmax least.
    """
    return torch.stack([r.logits_NE.logsumexp(dim=-1).square().mean() for r in routings]).mean()


def count(numbers_BX: Tensor, n: int) -> Tensor:
    """int64 [B, n]: how often each of 0 .. n - 1 occurs in a row. Not bincount, which on a GPU waits for the largest
    number."""
    one = torch.ones(1, 1, dtype=torch.int64, device=numbers_BX.device)
    return one.new_zeros(len(numbers_BX), n).scatter_add_(1, numbers_BX, one.expand_as(numbers_BX))


def _in_turn(experts_NK: Tensor, n_experts: int) -> Tensor:
    """Expert 0, 1, 2, ... slot by slot: an even load, for benchmarks."""
    slots_S = torch.arange(experts_NK.numel(), device=experts_NK.device)
    return (slots_S % n_experts).view(experts_NK.shape)
