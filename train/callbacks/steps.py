"""What every optimizer step was asked, was given and has learned, as one row for the file, W&B and the console."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from composer import Callback, Logger, State
from composer.utils import dist

from data.mixture.plan import Plan
from model.statistics import StepStatistics
from train.callbacks.metrics_file import MetricsFile
from train.clipping import GradientClipping
from train.console import Console


class StepRecorder(Callback):
    """Writes a row for every step and every evaluation.

    Args:
        statistics: what the model counts during a step; read and cleared here.
        clipping: knows the gradient norm of the step.
    """

    def __init__(
        self,
        plan: Plan,
        max_seq_len: int,
        statistics: StepStatistics,
        clipping: GradientClipping,
        file: MetricsFile,
        console: Console,
    ) -> None:
        self.plan = plan
        self.max_seq_len = max_seq_len
        self.statistics = statistics
        self.clipping = clipping
        self.file = file
        self.console = console
        self._asked_for_data = self._began = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self.file.open_after(state.timestamp.batch.value)
        self.console.start(state.timestamp.batch.value)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self._asked_for_data = time.perf_counter()

    def batch_start(self, state: State, logger: Logger) -> None:
        self._began = time.perf_counter()
        self.statistics.clear()

    def batch_end(self, state: State, logger: Logger) -> None:
        self.statistics.all_reduce()
        row = self.row(state)
        logger.log_metrics({name: value for name, value in row.items() if isinstance(value, int | float)})
        if dist.get_global_rank() == 0:
            self.file.write(row)
        self.console.step(row)

    def row(self, state: State) -> dict[str, Any]:
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
            **self.losses(),
            **self.mixture(before.sample.value, samples),
            **self.experts(),
            "lr": state.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": self.clipping.norm,
            "tokens_per_second": step_tokens / (now - self._asked_for_data),
            "seconds": now - self._asked_for_data,
            "seconds_waiting_for_data": self._began - self._asked_for_data,
        }

    def losses(self) -> dict[str, float | None]:
        statistics = self.statistics
        by_domain = statistics.loss_by_domain()
        return {
            "loss/train/total": statistics.total_loss(),
            "loss/train/cross_entropy": statistics.cross_entropy(),
            "loss/train/load_balancing": statistics.load_balancing(),
            **{f"loss/train/{name}": none_if_nan(loss) for name, loss in zip(self.plan.domains, by_domain, strict=True)},
        }

    def mixture(self, first: int, last: int) -> dict[str, float]:
        """Weights asked for and delivered over this step's samples."""
        asked = self.plan.asked(first, last)
        delivered = self.statistics.samples_by_domain.double()
        delivered = (delivered / delivered.sum()).tolist()
        return {
            **{f"mixture/asked/{name}": float(weight) for name, weight in zip(self.plan.domains, asked, strict=True)},
            **{f"mixture/delivered/{name}": weight for name, weight in zip(self.plan.domains, delivered, strict=True)},
        }

    def experts(self) -> dict[str, Any]:
        """Tokens of each layer's experts, and how far the busiest is above the mean (0: balanced)."""
        tokens = self.statistics.tokens_by_layer_expert.double().cpu().numpy()
        violation = tokens.max(axis=1) / np.maximum(tokens.mean(axis=1), 1) - 1
        return {
            "moe/max_violation": float(violation.max()),
            "moe/tokens_per_expert": tokens.astype(int).tolist(),
        }

    def eval_start(self, state: State, logger: Logger) -> None:
        self.console.evaluating(state)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        losses = {
            f"eval/{evaluator.label}/loss": float(state.eval_metrics[evaluator.label]["loss"].compute())
            for evaluator in state.evaluators
        }
        row = {"batch": state.timestamp.batch.value, "tokens": state.timestamp.token.value, **losses}
        logger.log_metrics(losses)
        if dist.get_global_rank() == 0:
            self.file.write(row)
        self.console.evaluation(row)

    def close(self, state: State, logger: Logger) -> None:
        self.file.close()


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN; a domain that a step did not draw has no loss."""
    return None if math.isnan(value) else value


def flat_sum(tensors: list[torch.Tensor]) -> None:
    """Sum tensors over all ranks in one message, in place."""
    flat = torch.cat([tensor.double().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, reduce_operation="SUM")
    for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(summed.reshape(tensor.shape))
