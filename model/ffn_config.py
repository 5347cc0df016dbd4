"""The part of the config that says what experts there are, how tokens find them, and what balances them."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from model.config_checks import Problem, expect_positive


class Activation(Enum):
    """The function on the gate of an expert's gated linear unit."""

    silu = "silu"


class LossScope(Enum):
    """Whose slots the load-balancing loss takes the experts' shares from (ours)."""

    microbatch = "microbatch"  # the rank's microbatch in hand, as in transformers and MegaBlocks
    global_batch = "global_batch"  # all ranks and microbatches of the optimizer step before


@dataclass
class FFNConfig:
    """The mixture of experts that stands where a dense transformer has its feed-forward layer, and that layer in the
    first blocks if they are to be dense."""

    ffn_hidden_size: int = 3584  # of one expert
    activation: Activation = Activation.silu
    moe_num_experts: int = 4
    moe_top_k: int = 1  # experts that each token visits
    moe_jitter_eps: float | None = None  # in training the router's input is multiplied by uniform(1 - eps, 1 + eps)
    moe_loss_weight: float = 0.01  # of the load-balancing loss
    moe_loss_per_layer: bool = False  # ours: balance each layer by itself (MegaBlocks), not all layers taken together
    moe_loss_scope: LossScope = LossScope.microbatch  # ours
    moe_zloss_weight: float = 0.0  # ours, MegaBlocks' name: of the router z-loss
    moe_bias_update_rate: float | None = None  # ours: step of each expert's bias in loss-free balancing; null: no bias
    moe_normalize_expert_weights: float | None = 1.0  # p of the norm that the chosen weights are divided by
    uniform_expert_assignment: bool = False  # for benchmarks: experts in turn, whatever the router says
    first_k_dense_replace: int = 0  # ours, DeepSeek's name: so many first blocks have one dense unit, no experts
    dense_ffn_hidden_size: int | None = None  # ours: of a dense unit; null: that of the experts that a token visits

    @property
    def dense_width(self) -> int:
        """Hidden size of the dense gated linear unit of the first blocks."""
        return self.dense_ffn_hidden_size or self.moe_top_k * self.ffn_hidden_size

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own or with its neighbours here."""
        yield from expect_positive("ffn_hidden_size", self.ffn_hidden_size)
        yield from expect_positive("moe_num_experts", self.moe_num_experts)
        yield from expect_positive("moe_top_k", self.moe_top_k)
        if self.moe_top_k > self.moe_num_experts > 0:
            expected = f"expected at most moe_num_experts ({self.moe_num_experts})"
            yield "moe_top_k", f"{expected}, found {self.moe_top_k}"
        if self.moe_jitter_eps is not None and not 0 <= self.moe_jitter_eps < 1:
            yield "moe_jitter_eps", f"expected a number from 0 up to, not including, 1, found {self.moe_jitter_eps}"
        if not 0 <= self.moe_loss_weight < float("inf"):
            yield "moe_loss_weight", f"expected a number of at least 0, found {self.moe_loss_weight}"
        if not 0 <= self.moe_zloss_weight < float("inf"):
            yield "moe_zloss_weight", f"expected a number of at least 0, found {self.moe_zloss_weight}"
        if self.moe_normalize_expert_weights is not None:
            yield from expect_positive("moe_normalize_expert_weights", self.moe_normalize_expert_weights)
        yield from self._bias_problems()
        yield from self._dense_problems()

    def _bias_problems(self) -> Iterator[Problem]:
        if self.moe_bias_update_rate is None:
            return
        if not 0 < self.moe_bias_update_rate < float("inf"):
            expected = "expected a number above 0, or null for no bias"
            yield "moe_bias_update_rate", f"{expected}, found {self.moe_bias_update_rate}"
        elif self.uniform_expert_assignment:
            expected = "expected null where uniform_expert_assignment is true, because no bias can move the tokens"
            yield "moe_bias_update_rate", f"{expected}, found {self.moe_bias_update_rate}"

    def _dense_problems(self) -> Iterator[Problem]:
        if self.first_k_dense_replace < 0:
            yield "first_k_dense_replace", f"expected 0 or more, found {self.first_k_dense_replace}"
        if self.dense_ffn_hidden_size is None:
            return
        yield from expect_positive("dense_ffn_hidden_size", self.dense_ffn_hidden_size)
        if self.first_k_dense_replace == 0:
            expected = "expected null where first_k_dense_replace is 0, because no block is dense"
            yield "dense_ffn_hidden_size", f"{expected}, found {self.dense_ffn_hidden_size}"
