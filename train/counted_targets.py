"""Losses that are means over the targets of the whole global batch, however many of them each microbatch holds."""

from __future__ import annotations

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from model.composer_model import TARGETS_PER_SAMPLE, DbrxComposerModel
from model.head import IGNORED


class CountTargets(Callback):
    """Counts the targets of each global batch and writes their mean number per sample into the batch.

    The model divides by it: Composer then weighs microbatches by their samples, and FSDP2 takes the mean over ranks.
    """

    def __init__(self, model: DbrxComposerModel) -> None:
        self.model = model

    def after_dataloader(self, state: State, logger: Logger) -> None:
        tokens_BT = state.batch["tokens"].to(torch.int64)
        samples = len(tokens_BT)
        counted = (self.model.targets({"tokens": tokens_BT}) != IGNORED).sum()
        sums = state.device.tensor_to_device(torch.stack([counted, torch.tensor(samples)]).double())
        dist.all_reduce(sums, reduce_operation="SUM")
        per_sample = sums[0].clamp(min=1) / sums[1]
        state.batch = {**state.batch, TARGETS_PER_SAMPLE: per_sample.expand(samples)}
