"""DBRX as Composer trains and evaluates it. The only file of model/ that imports Composer (about 10 s)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor
from torchmetrics import Metric

from model.config import ModelConfig
from model.dbrx import DbrxForCausalLM, DbrxOutput
from model.documents import find_documents
from model.ffn_config import LossScope
from model.head import IGNORED
from model.router import Routing, load_balancing_loss, router_z_loss
from model.statistics import StepStatistics, microbatch_statistics

Batch = Mapping[str, Tensor]
TARGETS_PER_SAMPLE = "targets_per_sample"  # in a batch, fp64 [B]: see `DbrxComposerModel.loss`


class DbrxComposerModel(ComposerModel):
    """A DBRX decoder with its loss, per-domain statistics and evaluation metric.

    A batch has 'tokens' (int64 [B, T]) and 'domain' (int64 [B], an index into `domains`). Attention, positions
    and loss run across document ends or stop there, as `attend_across_documents` says. `step_statistics` is what the
    microbatches of one optimizer step saw; a callback begins each step, and hands their sum over the ranks to
    `finish_step`. The decoder is built on `device`; `model.initialise` says how to go on from "meta". Raises ValueError
    if the config can't be built, there is no domain, or `end_of_text` is no token.
    """

    last_step_tokens: Tensor | None

    def __init__(
        self, config: ModelConfig, domains: Sequence[str], end_of_text: int, seed: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__()
        if not domains:
            raise ValueError("expected at least one domain, found none")
        if not 0 <= end_of_text < config.vocab_size:
            raise ValueError(f"end_of_text: expected a token id below {config.vocab_size}, found {end_of_text}")
        self.config = config
        self.domains = list(domains)
        self.end_of_text = end_of_text
        with torch.device(device):
            self.model = DbrxForCausalLM(config, seed)
        self._seen: StepStatistics | None = None
        L, E = config.n_moe_layers, config.ffn_config.moe_num_experts
        has_memory = config.ffn_config.moe_loss_scope is LossScope.global_batch
        self.register_buffer("last_step_tokens", torch.zeros(L, E, dtype=torch.int64) if has_memory else None)

    def forward(self, batch: Batch) -> DbrxOutput:
        """Runs the decoder and its loss head; logits are never held."""
        across = self.config.attend_across_documents
        documents = None if across else find_documents(batch["tokens"], self.end_of_text)
        return self.model(batch["tokens"], self.targets(batch), documents)

    def targets(self, batch: Batch) -> Tensor:
        """int64 [B, T], as `next_token_targets` gives them for this model."""
        return next_token_targets(batch["tokens"], self.end_of_text, self.config.attend_across_documents)

    def loss(self, outputs: DbrxOutput, batch: Batch, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Composer's dict, of 'total' alone: the sum of `losses`, which it takes the gradient of. Each further entry
        would cost it a reduction and a wait for the GPU; `step_statistics` has them all."""
        losses = self.losses(outputs, batch)
        seen = microbatch_statistics(outputs, batch["domain"], len(self.domains), losses["load_balancing"])
        self._seen = seen if self._seen is None else self._seen + seen
        return {"total": torch.stack([*losses.values()]).sum()}

    def losses(self, outputs: DbrxOutput, batch: Batch) -> dict[str, Tensor]:
        """What the model is trained on, fp32 scalars in nats. 'cross_entropy' is the mean over the counted targets;
        'load_balancing' and, if it has a weight, 'router_z' come weighted.

        Of a microbatch, 'targets_per_sample' says how many targets are counted in a sample, by the mean over the global
        batch, and 'cross_entropy' is the sum over the microbatch's targets divided by that and by its samples: its mean
        over the samples of all microbatches and ranks is then the mean over all counted targets, wherever they are.
        """
        assert outputs.token_loss is not None, "forward always passes targets"
        cross_entropy = outputs.token_loss.mean
        if TARGETS_PER_SAMPLE in batch:
            counted_B = outputs.token_loss.counted_BT.sum(dim=1) / batch[TARGETS_PER_SAMPLE]
            cross_entropy = cross_entropy * counted_B.mean().float()
        return {"cross_entropy": cross_entropy, **self._routing_losses(outputs.routings)}

    def _routing_losses(self, routings: Sequence[Routing]) -> dict[str, Tensor]:
        """The weighted losses of a microbatch's routing, each a mean over its tokens.

        With `moe_loss_scope` global_batch the experts' shares are those of the whole global batch, but of the step
        before: a microbatch's gradient needs them before the later ones of its own step are seen, and between two steps
        a router moves little. So the gradient of a step is the same however its samples are laid out over ranks and
        microbatches. (The paper that proposes the scope, arXiv 2501.11873, takes the shares of all ranks and of the
        microbatches so far, which depends on the layout.) The first step takes even shares, whose gradient is 0.
        """
        ffn = self.config.ffn_config
        balancing = load_balancing_loss(routings, ffn.moe_loss_per_layer, self.last_step_tokens)
        losses = {"load_balancing": ffn.moe_loss_weight * balancing}
        if ffn.moe_zloss_weight:
            losses["router_z"] = ffn.moe_zloss_weight * router_z_loss(routings)
        return losses

    def begin_step(self) -> None:
        """Nothing seen yet."""
        self._seen = None

    @property
    def step_statistics(self) -> StepStatistics:
        """What the microbatches since `begin_step` saw, on this rank."""
        if self._seen is None:
            return StepStatistics.zeros(
                len(self.domains), self.config.n_moe_layers, self.config.ffn_config.moe_num_experts
            )
        return self._seen

    def step_losses(self, statistics: StepStatistics) -> dict[str, Tensor]:
        """The losses of an optimizer step, by the names of `losses`, and their 'total', as fp64 scalars; `statistics`
        summed over the ranks.

        Exact for the global batch, with one exception: the load-balancing loss of `moe_loss_scope` microbatch is the
        mean of the microbatches' own.
        """
        ffn = self.config.ffn_config
        balancing = statistics.load_balancing
        if ffn.moe_loss_scope is LossScope.global_batch:
            balancing = ffn.moe_loss_weight * statistics.spread_loss(ffn.moe_top_k, ffn.moe_loss_per_layer)
        losses = {"cross_entropy": statistics.cross_entropy, "load_balancing": balancing}
        if ffn.moe_zloss_weight:
            router_z_L = statistics.over_tokens(statistics.router_z_sum_by_layer, ffn.moe_top_k)
            losses["router_z"] = ffn.moe_zloss_weight * router_z_L.mean()
        return {"total": torch.stack([*losses.values()]).sum(), **losses}

    @torch.no_grad()
    def finish_step(self, statistics: StepStatistics) -> None:
        """Moves the state of balancing on, after each optimizer step; `statistics` summed over the ranks.

        The state is `last_step_tokens` (int64 [L, E], with `moe_loss_scope` global_batch) and each router's
        `expert_bias` (with `moe_bias_update_rate`). Both are buffers, so checkpoints hold them. They follow from whole
        numbers that every rank and layout agrees on, so they are the same to the bit on all.
        """
        tokens_LE = statistics.tokens_by_layer_expert
        if self.last_step_tokens is not None:
            self.last_step_tokens.copy_(tokens_LE)
        if self.config.ffn_config.moe_bias_update_rate is not None:
            for router, tokens_E in zip(self.model.routers, tokens_LE, strict=True):
                router.move_bias(tokens_E)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        """One metric, 'loss', for evaluation; none in training, where `step_statistics` says more."""
        return {} if is_train else {"loss": MeanTokenLoss()}

    def update_metric(self, batch: Batch, outputs: DbrxOutput, metric: Metric) -> None:
        """Adds an evaluation batch to the metric."""
        assert outputs.token_loss is not None, "forward always passes targets"
        metric.update(outputs.token_loss.loss_BT, outputs.token_loss.counted_BT)


class MeanTokenLoss(Metric):
    """Mean cross-entropy in nats, exact over all counted tokens of all batches and ranks; nan if there were none."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.loss_sum: Tensor
        self.tokens: Tensor

    def update(self, loss_BT: Tensor, counted_BT: Tensor) -> None:
        """Adds a batch: the loss of each position, 0 where it is not counted, and which are."""
        self.loss_sum += loss_BT.sum(dtype=torch.float64)
        self.tokens += counted_BT.sum()

    def compute(self) -> Tensor:
        """The mean so far, fp64 scalar."""
        return self.loss_sum / self.tokens


def next_token_targets(tokens_BT: Tensor, end_of_text: int, across_documents: bool = True) -> Tensor:
    """int64 [B, T]: each position's next token, or `IGNORED` at the last position and in padding.

    Padding is end_of_text after end_of_text: the first one ends a document and is learned, the rest fill the sample.
    Without across_documents the token after an end_of_text is no target either: it begins another document.
    """
    targets_BT = torch.full_like(tokens_BT, IGNORED)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    end_BT = tokens_BT == end_of_text
    left_out_BT = end_BT & (targets_BT == end_of_text) if across_documents else end_BT
    return targets_BT.masked_fill_(left_out_BT, IGNORED)
