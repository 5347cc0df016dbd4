"""The optimizer and its learning rate."""

from __future__ import annotations

from composer.optim import (
    ComposerScheduler,
    ConstantWithWarmupScheduler,
    CosineAnnealingWithWarmupScheduler,
    LinearWithWarmupScheduler,
)
from torch import nn
from torch.optim import AdamW

from train.recipe import OptimizerConfig, Recipe


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """AdamW; matrices are decayed, vectors (norms) are not."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)


def build_scheduler(recipe: Recipe) -> ComposerScheduler:
    """The recipe's schedule; the warmup is in whole steps, the decay ends with the run."""
    config = recipe.scheduler
    warmup = f"{round(recipe.samples(config.warmup) / recipe.global_train_batch_size)}ba"
    if config.name == "constant":
        return ConstantWithWarmupScheduler(t_warmup=warmup)
    if config.name == "linear":
        return LinearWithWarmupScheduler(t_warmup=warmup, alpha_f=config.final)
    return CosineAnnealingWithWarmupScheduler(t_warmup=warmup, alpha_f=config.final)
