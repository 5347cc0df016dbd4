"""The learning rate as a pure function of the samples trained on: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from composer import Callback, Logger, State

from train.recipe import Recipe


class LearningRate(Callback):
    """Sets the rate of every parameter group before each step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def batch_start(self, state: State, logger: Logger) -> None:
        for group in state.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.recipe, state.timestamp.sample.value)


def learning_rate(recipe: Recipe, samples: int) -> float:
    """The rate of the step after `samples`: a linear warmup to the peak, then the named decay to its share.

    The first step already moves, and the last one of the run has the final rate. A run whose global batch has changed
    goes on at the rate that its samples have come to.
    """
    config = recipe.scheduler
    step = samples / recipe.global_train_batch_size
    peak, steps = recipe.optimizer.lr, recipe.steps
    warmup = round(recipe.samples(config.warmup) / recipe.global_train_batch_size)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    if config.name == "constant":
        return peak
    shape = 1 - progress if config.name == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak * (config.final + (1 - config.final) * shape)
