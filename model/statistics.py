"""What the microbatches of one optimizer step saw, by domain, layer and expert, on this rank."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from model.dbrx import DbrxOutput
from model.precision import without_autocast
from model.router import Routing, spread_loss


@dataclass
class StepStatistics:
    """Sums, never means, so that microbatches and ranks add up. All detached; losses in nats. Layers are those with
    experts.

    A caller reduces over ranks by summing every field, and divides at the end.
    """

    samples_by_domain: Tensor  # int64 [M]
    loss_sum_by_domain: Tensor  # fp64 [M], cross-entropy over the counted targets
    tokens_by_domain: Tensor  # int64 [M], counted targets
    load_balancing_sum: Tensor  # fp64 scalar, weighted loss times the microbatch's samples: Composer's weighting
    router_z_sum_by_layer: Tensor  # fp64 [L], squared log-sum-exp of the router's logits, over tokens
    router_entropy_sum_by_layer: Tensor  # fp64 [L], of the router's probabilities, over tokens
    probability_sum_by_layer_expert: Tensor  # fp64 [L, E], of the router, over tokens
    tokens_by_layer_domain_expert: Tensor  # int64 [L, M, E], slots: each of the B * T tokens counts K times
    computed_by_layer: Tensor  # int64 [L], slots that this rank's experts computed, whichever rank they came from

    @classmethod
    def zeros(cls, n_domains: int, n_layers: int, n_experts: int) -> "StepStatistics":
        """Nothing seen yet."""
        return cls(
            samples_by_domain=torch.zeros(n_domains, dtype=torch.int64),
            loss_sum_by_domain=torch.zeros(n_domains, dtype=torch.float64),
            tokens_by_domain=torch.zeros(n_domains, dtype=torch.int64),
            load_balancing_sum=torch.zeros((), dtype=torch.float64),
            router_z_sum_by_layer=torch.zeros(n_layers, dtype=torch.float64),
            router_entropy_sum_by_layer=torch.zeros(n_layers, dtype=torch.float64),
            probability_sum_by_layer_expert=torch.zeros(n_layers, n_experts, dtype=torch.float64),
            tokens_by_layer_domain_expert=torch.zeros(n_layers, n_domains, n_experts, dtype=torch.int64),
            computed_by_layer=torch.zeros(n_layers, dtype=torch.int64),
        )

    @property
    def samples(self) -> Tensor:
        """int64 scalar."""
        return self.samples_by_domain.sum()

    @property
    def tokens_by_layer_expert(self) -> Tensor:
        """int64 [L, E]: how many slots each expert of each layer was given."""
        return self.tokens_by_layer_domain_expert.sum(dim=1)

    @property
    def cross_entropy(self) -> Tensor:
        """fp64 scalar: mean over all counted targets; nan if there are none."""
        return self.loss_sum_by_domain.sum() / self.tokens_by_domain.sum()

    @property
    def load_balancing(self) -> Tensor:
        """fp64 scalar: mean of the microbatches' weighted losses over samples; nan if there are none."""
        return self.load_balancing_sum / self.samples

    @property
    def dropped_by_layer(self) -> Tensor:
        """int64 [L]: slots that the routers gave out and no expert computed. Of one rank it says nothing: slots travel;
        over all ranks it is 0, for the experts are dropless."""
        return self.tokens_by_layer_expert.sum(dim=1) - self.computed_by_layer

    def over_tokens(self, sum_by_layer: Tensor, top_k: int) -> Tensor:
        """fp64 [L]: a sum over tokens as a mean over them; nan if there are none."""
        return sum_by_layer * top_k / self.tokens_by_layer_expert.sum(dim=1)

    def spread_loss(self, top_k: int, per_layer: bool) -> Tensor:
        """fp64 scalar: the unweighted load-balancing loss of all tokens together, exact; nan if there are none."""
        tokens_L1 = self.tokens_by_layer_expert.sum(dim=1, keepdim=True) / top_k
        probability_LE = self.probability_sum_by_layer_expert / tokens_L1
        return spread_loss(self.tokens_by_layer_expert, probability_LE, top_k, per_layer)

    def __add__(self, other: "StepStatistics") -> "StepStatistics":
        """Of both together."""
        return StepStatistics(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@torch.no_grad()
def microbatch_statistics(
    outputs: DbrxOutput, domain_B: Tensor, n_domains: int, load_balancing: Tensor
) -> StepStatistics:
    """One microbatch's sums. `load_balancing` is its weighted loss. No host synchronisation on a GPU."""
    assert outputs.token_loss is not None
    routings = outputs.routings
    loss_B = outputs.token_loss.loss_BT.sum(dim=1, dtype=torch.float64)
    tokens_B = outputs.token_loss.counted_BT.sum(dim=1, dtype=torch.float64)
    columns_B3 = torch.stack([torch.ones_like(loss_B), loss_B, tokens_B], dim=1)
    samples_M, loss_M, tokens_M = loss_B.new_zeros(n_domains, 3).index_add_(0, domain_B, columns_B3).unbind(dim=1)
    with without_autocast(loss_B):
        router_z_L, entropy_L = torch.stack([_router_sums(r) for r in routings], dim=1)
    slots_LBE = torch.stack([r.slots_BE for r in routings])
    slots_LME = slots_LBE.new_zeros(len(routings), n_domains, slots_LBE.shape[2]).index_add_(1, domain_B, slots_LBE)
    return StepStatistics(
        samples_by_domain=samples_M.long(),
        loss_sum_by_domain=loss_M,
        tokens_by_domain=tokens_M.long(),
        load_balancing_sum=load_balancing.double() * len(domain_B),
        router_z_sum_by_layer=router_z_L,
        router_entropy_sum_by_layer=entropy_L,
        probability_sum_by_layer_expert=_probability_sums(routings),
        tokens_by_layer_domain_expert=slots_LME,
        computed_by_layer=torch.stack([_computed(r) for r in routings]),
    )


def _probability_sums(routings: Sequence[Routing]) -> Tensor:
    """fp64 [L, E], over the microbatch's tokens."""
    return torch.stack([r.mean_probability_E for r in routings]).double() * len(routings[0].logits_NE)


def _router_sums(routing: Routing) -> Tensor:
    """fp64 [2], over the microbatch's tokens: squared log-sum-exp of the logits, and entropy of their softmax in nats.

    Layer by layer, because all layers' logits in one tensor would be one more copy of them where memory is fullest.
    """
    p_NE = routing.probabilities_NE
    log_p_NE = p_NE.clamp(min=torch.finfo(p_NE.dtype).tiny).log_()
    entropy = -torch.dot(p_NE.flatten(), log_p_NE.flatten())
    # Each logit is its log p and the log-sum-exp of them all, which no logarithm of a probability of 0 spoils this way.
    log_sum_NE = torch.sub(routing.logits_NE, log_p_NE, out=log_p_NE)
    log_sum_N = torch.mv(log_sum_NE.mul_(p_NE), p_NE.new_ones(p_NE.shape[1])).double()
    return torch.stack([torch.dot(log_sum_N, log_sum_N), entropy.double()])


def _computed(routing: Routing) -> Tensor:
    assert routing.computed is not None, "experts come after their router"
    return routing.computed
