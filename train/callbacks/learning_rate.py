"""Sets the learning rate before each step."""

from __future__ import annotations

from composer import Callback, Logger, State

from train.learning_rate import Schedule
from train.recipe import Recipe


class LearningRate(Callback):
    """Sets the rate of every parameter group."""

    def __init__(self, recipe: Recipe) -> None:
        self.schedule = Schedule.of(recipe)
        self.batch = recipe.global_train_batch_size

    def batch_start(self, state: State, logger: Logger) -> None:
        rate = self.schedule.rate(state.timestamp.sample.value / self.batch)
        for group in state.optimizers[0].param_groups:
            group["lr"] = rate
