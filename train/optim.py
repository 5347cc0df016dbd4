"""The optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.adam import adam

from model.parts import parts_of
from train.clipping import local
from train.recipe import OptimizerConfig


class ShardedAdamW(AdamW):
    """torch's AdamW, whose kernel is given each rank's own shards instead of DTensors.

    The update is elementwise, so they are all that it needs. Given DTensors beside its step counts, which are plain
    tensors, torch 2.11 keeps 600 bytes for each parameter in each step for ever (a DTensorSpec of each count, which
    nothing frees), and takes twice as long on a small model.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lists: list[list[torch.Tensor]] = [[], [], [], [], [], []]
            self._init_group(group, *lists)
            parameters, gradients, means, squares, largest, steps = [list(map(local, tensors)) for tensors in lists]
            beta1, beta2 = group["betas"]
            adam(
                parameters,
                gradients,
                means,
                squares,
                largest,
                steps,
                fused=True,
                amsgrad=False,
                maximize=False,
                decoupled_weight_decay=True,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
            )
        return loss


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> ShardedAdamW:
    """AdamW with one group for each part of the model.

    The fused kernel on CPUs too: at the demo's size, on one thread of a busy AMD EPYC, it took 7 ms of CPU time, the
    loops over lists 28 and the plain loop 40 to 50 (`benchmarks/optimizer.py`).
    """
    groups = [
        {"params": parameters, "weight_decay": 0.0 if part in config.undecayed else config.weight_decay}
        for part, parameters in parts_of(model).items()
    ]
    return ShardedAdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
