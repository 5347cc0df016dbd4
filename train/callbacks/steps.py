"""What every optimizer step was asked, was given and has learned: rows for the file, W&B and the console."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from composer import Callback, Logger, State, Time
from composer.utils import dist

from data.mixture.order import epochs_of
from data.mixture.plan import Plan
from model.composer_model import DbrxComposerModel
from model.statistics import StepStatistics
from train.callbacks.metrics_file import MetricsFile
from train.callbacks.routing import RoutingSum
from train.callbacks.routing_picture import CAPTION, routing_picture
from train.callbacks.spikes import SpikeGuard
from train.clipping import GradientClipping
from train.console import Console
from train.update_norms import update_norms
from train.wandb_run import WandbRun


class StepRecorder(Callback):
    """Writes a row for every step, for every evaluation, and for the routing over the steps up to it.

    Args:
        model: what it counts during a step is cleared here, and its sum over the ranks handed back to it.
        guard: has that sum, and knows whether the step's update was made.
        clipping: knows the gradient norms of the step.
        wandb: the run in W&B; None on every rank but the first.
        norm_interval: steps between two rows with the norms of weights and of their updates.
        routing_interval: steps between two rows of routing, each of layers x domains x experts numbers.
    """

    def __init__(
        self,
        plan: Plan,
        model: DbrxComposerModel,
        guard: SpikeGuard,
        clipping: GradientClipping,
        file: MetricsFile,
        wandb: WandbRun | None,
        console: Console,
        norm_interval: int,
        routing_interval: int,
    ) -> None:
        self.plan = plan
        self.model = model
        self.guard = guard
        self.clipping = clipping
        self.file = file
        self.wandb = wandb
        self.console = console
        self.norm_interval = norm_interval
        self.routing_interval = routing_interval
        self.routing = RoutingSum()
        self._asked_for_data = self._began = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self.file.open_after(state.timestamp.batch.value)
        self.console.start(state.timestamp.batch.value)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._asked_for_data = time.perf_counter()

    def batch_start(self, state: State, logger: Logger) -> None:
        self._began = time.perf_counter()
        self.model.step_statistics.clear()

    def batch_end(self, state: State, logger: Logger) -> None:
        statistics = self.guard.statistics
        if not self.guard.skipped:
            self.model.finish_step(statistics)
        row = self.row(state, statistics)
        self.write(row)
        self.console.step(row)
        self.routing.add(statistics.tokens_by_layer_domain_expert)
        if self.routing_due(state):
            self.write_routing(state)

    def row(self, state: State, statistics: StepStatistics) -> dict[str, Any]:
        """The row of the step that has just ended."""
        now = time.perf_counter()
        tokens, samples = state.timestamp.token.value, state.timestamp.sample.value
        before = state.previous_timestamp
        assert before is not None
        step_tokens = tokens - before.token.value
        return {
            "batch": state.timestamp.batch.value,
            "samples": samples,
            "tokens": tokens,
            **self.losses(statistics),
            **self.mixture(statistics, before.sample.value, samples),
            **self.so_far(samples, tokens // samples),
            **expert_load(statistics),
            "skipped": self.guard.skipped,
            "lr": state.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": self.clipping.norm,
            **self.norms(state),
            "tokens_per_second": step_tokens / (now - self._asked_for_data),
            "seconds": now - self._asked_for_data,
            "seconds_waiting_for_data": self._began - self._asked_for_data,
        }

    def norms(self, state: State) -> dict[str, float]:
        """Of each part of the model. A collective."""
        columns = {f"optimizer/gradient_norm/{part}": norm for part, norm in self.clipping.norms.items()}
        if state.timestamp.batch.value % self.norm_interval == 0 and not self.guard.skipped:
            columns |= update_norms(self.clipping.parts, state.optimizers[0])
        return columns

    def losses(self, statistics: StepStatistics) -> dict[str, float | None]:
        by_domain = statistics.loss_sum_by_domain / statistics.tokens_by_domain
        return {
            **{f"loss/train/{name}": float(loss) for name, loss in self.model.step_losses(statistics).items()},
            **{
                f"loss/train/{name}": none_if_nan(loss)
                for name, loss in zip(self.plan.domains, by_domain.tolist(), strict=True)
            },
        }

    def mixture(self, statistics: StepStatistics, first: int, last: int) -> dict[str, float]:
        """Weights asked for over samples `first <= n < last`, and what the model was given."""
        asked = self.plan.asked(first, last).tolist()
        delivered = (statistics.tokens_by_domain.double() / statistics.tokens_by_domain.sum()).tolist()
        return {
            **{f"mixture/asked/{name}": weight for name, weight in zip(self.plan.domains, asked, strict=True)},
            **{f"mixture/delivered/{name}": weight for name, weight in zip(self.plan.domains, delivered, strict=True)},
        }

    def so_far(self, samples: int, sample_tokens: int) -> dict[str, float]:
        """Tokens and epochs of each domain since the run began. The plan knows them, whatever was resumed how often;
        `brickyard audit` proves that the model was given the plan."""
        delivered = list(zip(self.plan.orders, self.plan.delivered(samples).tolist(), strict=True))
        return {
            **{f"mixture/tokens/{order.domain}": count * sample_tokens for order, count in delivered},
            **{f"mixture/epochs/{order.domain}": epochs_of(order, count) for order, count in delivered},
        }

    def routing_due(self, state: State) -> bool:
        assert state.max_duration is not None
        finished = state.timestamp >= Time.from_input(state.max_duration)
        return finished or state.timestamp.batch.value % self.routing_interval == 0

    def write_routing(self, state: State) -> None:
        """The row of all the steps since the last one, and its picture."""
        row = {"batch": state.timestamp.batch.value, "tokens": state.timestamp.token.value, **self.routing.take()}
        self.write(row)
        if self.wandb:
            first_layer = self.model.config.first_moe_layer
            picture = routing_picture(np.array(row["moe/routing"]), self.plan.domains, first_layer)
            self.wandb.write_picture("moe/routing", picture, CAPTION, row)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        losses = {
            f"eval/{evaluator.label}/loss": float(state.eval_metrics[evaluator.label]["loss"].compute())
            for evaluator in state.evaluators
        }
        row = {"batch": state.timestamp.batch.value, "tokens": state.timestamp.token.value, **losses}
        self.write(row)
        self.console.evaluation(row)

    def write(self, row: dict[str, Any]) -> None:
        """To the file and to W&B, on rank 0."""
        if dist.get_global_rank() == 0:
            self.file.write(row)
        if self.wandb:
            self.wandb.write(row)

    def state_dict(self) -> dict[str, Any]:
        return {"routing": self.routing.dump()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.routing.load(state["routing"])

    def close(self, state: State, logger: Logger) -> None:
        self.file.close()
        if self.wandb:
            self.wandb.close()


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN; a domain that a step did not draw has no loss."""
    return None if math.isnan(value) else value


def expert_load(statistics: StepStatistics) -> dict[str, Any]:
    """Tokens of each layer's experts, and how far the busiest is above the mean (0: balanced)."""
    tokens = statistics.tokens_by_layer_expert.cpu().numpy()
    violation = tokens.max(axis=1) / tokens.mean(axis=1) - 1
    return {"moe/max_violation": float(violation.max()), "moe/tokens_per_expert": tokens.tolist()}
