"""Gradient clipping by the norm over all parameters, which also tells what the norm was."""

from __future__ import annotations

import torch
from composer import Algorithm, Event, Logger, State
from torch.distributed.tensor import DTensor


class GradientClipping(Algorithm):
    """Scales gradients down so that their global L2 norm is at most `limit` (Pascanu et al. 2013).

    Composer's own fails on parameters of several meshes and keeps the norm to itself.

    Attributes:
        norm: of the last step's gradients before clipping.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.norm = 0.0

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        total = torch.nn.utils.get_total_norm(gradients)
        if isinstance(total, DTensor):
            total = total.full_tensor()
        self.norm = float(total)
        if self.limit is not None and self.norm > self.limit:
            torch._foreach_mul_(gradients, self.limit / (self.norm + 1e-6))
