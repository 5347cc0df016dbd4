"""What every optimizer step was asked, was given and has learned: rows for the file, the dashboards and the console."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
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
from train.dashboard import Dashboard, alert
from train.memory_use import memory_use
from train.moe_health import moe_health
from train.pace import Pace
from train.step_clock import StepClock
from train.throughput import Throughput
from train.update_norms import update_norms


class StepRecorder(Callback):
    """Writes a row for every step, for every evaluation, and for the routing over the steps up to it.

    Args:
        model: its count of each step begins here, and the sum over the ranks is handed back to it.
        guard: has that sum and the losses in it, and knows whether the step's update was made.
        clipping: knows the gradient norms of the step.
        clock: knows its seconds, by part.
        dashboards: the run in W&B and the like; none on every rank but the first.
        norm_interval: steps between two rows with the norms of weights and of their updates.
        routing_interval: steps between two rows of routing, each of layers x domains x experts numbers.
    """

    def __init__(
        self,
        plan: Plan,
        model: DbrxComposerModel,
        guard: SpikeGuard,
        clipping: GradientClipping,
        clock: StepClock,
        throughput: Throughput,
        file: MetricsFile,
        dashboards: Sequence[Dashboard],
        console: Console,
        norm_interval: int,
        routing_interval: int,
    ) -> None:
        self.plan = plan
        self.model = model
        self.guard = guard
        self.clipping = clipping
        self.clock = clock
        self.throughput = throughput
        self.file = file
        self.dashboards = dashboards
        self.console = console
        self.norm_interval = norm_interval
        self.routing_interval = routing_interval
        self.delivered = plan.delivered(0)  # [domains] samples of each since the run began
        self.routing = RoutingSum()
        self.pace = Pace()
        self.process = psutil.Process()
        self._eval_began = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self.file.open_after(state.timestamp.batch.value)
        for dashboard in self.dashboards:
            dashboard.open_after(state.timestamp.batch.value)
        self.console.start(state.timestamp.batch.value, state.timestamp.token.value)
        self.throughput.start(state.timestamp.token.value)
        self.delivered = self.plan.delivered(state.timestamp.sample.value)

    def batch_start(self, state: State, logger: Logger) -> None:
        self.model.begin_step()

    def batch_end(self, state: State, logger: Logger) -> None:
        statistics = self.guard.statistics
        if not self.guard.skipped:
            self.model.finish_step(statistics)
        row = self.row(state, statistics)
        self.write(row)
        self.console.step(row)
        if times := self.pace.slower(row["throughput/seconds"]):
            text = f"at step {row['batch']:,} steps take {times:.1f} times as long as before"
            alert(self.dashboards, "Slow steps", text)
        self.routing.add(statistics.tokens_by_layer_domain_expert)
        if self.routing_due(state):
            self.write_routing(state)

    def row(self, state: State, statistics: StepStatistics) -> dict[str, Any]:
        """The row of the step that has just ended."""
        tokens, samples = state.timestamp.token.value, state.timestamp.sample.value
        before = state.previous_timestamp
        assert before is not None and state.max_duration is not None
        step = (tokens - before.token.value, samples - before.sample.value)
        planned = Time.from_input(state.max_duration).value * (tokens // samples)  # it is in samples
        return {
            "batch": state.timestamp.batch.value,
            "samples": samples,
            "tokens": tokens,
            **self.losses(statistics),
            **self.mixture(statistics, before.sample.value, samples),
            **self.so_far(statistics, tokens // samples),
            **moe_health(statistics, self.model.config.ffn_config.moe_top_k),
            "skipped": self.guard.skipped,
            "optimizer/lr": state.optimizers[0].param_groups[0]["lr"],
            "optimizer/gradient_norm": self.clipping.norm,
            **self.norms(state),
            **self.throughput.columns(self.clock.take(), step, tokens, planned),
            **memory_use(self.process),
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
            **{f"loss/{name}": loss for name, loss in self.guard.losses.items()},
            **{
                f"domain/loss/{name}": none_if_nan(loss)
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

    def so_far(self, statistics: StepStatistics, sample_tokens: int) -> dict[str, float]:
        """Tokens and epochs of each domain since the run began: what the plan says of the time before this start, and
        what the model was given since."""
        self.delivered += statistics.samples_by_domain.numpy()
        delivered = list(zip(self.plan.orders, self.delivered.tolist(), strict=True))
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
        if self.dashboards:
            first_layer = self.model.config.first_moe_layer
            picture = routing_picture(np.array(row["moe/routing"]), self.plan.domains, first_layer)
            for dashboard in self.dashboards:
                dashboard.write_picture("moe/routing", picture, CAPTION, row)

    def eval_before_all(self, state: State, logger: Logger) -> None:
        self._eval_began = time.perf_counter()

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """The row of an evaluation, in which each domain counts the same for the mean."""
        losses = {
            evaluator.label: float(state.eval_metrics[evaluator.label]["loss"].compute())
            for evaluator in state.evaluators
        }
        row = {
            "batch": state.timestamp.batch.value,
            "tokens": state.timestamp.token.value,
            "eval/loss/cross_entropy": sum(losses.values()) / len(losses),
            **{f"eval/domain/loss/{name}": loss for name, loss in losses.items()},
            "throughput/seconds/evaluation": time.perf_counter() - self._eval_began,
        }
        self.write(row)
        self.console.evaluation(row)

    def write(self, row: dict[str, Any]) -> None:
        """To the file and to the dashboards, on rank 0."""
        if dist.get_global_rank() == 0:
            self.file.write(row)
        for dashboard in self.dashboards:
            dashboard.write(row)

    def state_dict(self) -> dict[str, Any]:
        return {"routing": self.routing.dump()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.routing.load(state["routing"])

    def close(self, state: State, logger: Logger) -> None:
        self.file.close()
        for dashboard in self.dashboards:
            dashboard.close()


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN; a domain that a step did not draw has no loss."""
    return None if math.isnan(value) else value
