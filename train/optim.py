"""The optimizer."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from model.parts import parts_of
from train.recipe import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW with one group for each part of the model: all that a fused kernel is given must lie on one device mesh.

    Fused is the fastest on CPUs too: see `benchmarks/optimizer.py`.
    """
    groups = [
        {"params": parameters, "weight_decay": 0.0 if part in config.undecayed else config.weight_decay}
        for part, parameters in parts_of(model).items()
    ]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
