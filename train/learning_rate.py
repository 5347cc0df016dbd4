"""The learning rate as a pure function of the samples trained on: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from train.recipe import Recipe

# The share of the way down that is left, where a share of it is done; both go from 1 to 0.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "one_minus_sqrt": lambda done: 1 - math.sqrt(done),
}


@dataclass(frozen=True)
class Schedule:
    """A linear warmup to the peak, a stable phase that may be empty, and a decay that may be none.

    Attributes:
        peak, final: rates.
        warmup: steps below the peak; the first one already moves.
        decay_from: steps done when the decay begins; the step that follows is the last at the peak, or of the warmup.
        end: steps done when the last step, which has the final rate, begins.
        shape: a key of SHAPES.
    """

    peak: float
    final: float
    warmup: int
    decay_from: int
    end: int
    shape: str

    @classmethod
    def of(cls, recipe: Recipe) -> Schedule:
        """The schedule of a recipe; times are rounded to whole steps, of the global batch as it is now."""
        config, last = recipe.scheduler, recipe.steps - 1
        peak, warmup = recipe.optimizer.lr, whole_steps(recipe, config.warmup)
        if config.name == "constant" or config.final == 1:
            return cls(peak, peak, warmup, last, last, "linear")
        if config.name == "wsd":
            decay_from = last - max(1, whole_steps(recipe, config.decay))
            return cls(peak, peak * config.final, warmup, decay_from, last, config.decay_shape)
        return cls(peak, peak * config.final, warmup, warmup, last, config.name)

    def rate(self, step: float) -> float:
        """The rate of the step that begins when `step` steps are done."""
        if step < self.warmup:
            return self.peak * min(1.0, (step + 1) / self.warmup)
        if step <= self.decay_from:
            return self.peak
        done = min(1.0, (step - self.decay_from) / max(1, self.end - self.decay_from))
        return self.final + (self.peak - self.final) * SHAPES[self.shape](done)

    def parts(self) -> Iterator[tuple[str, int]]:
        """What comes one after the other, in words, and the steps done when it ends."""
        if self.warmup:
            yield f"up to {self.peak:.3g}", self.warmup
        if self.decay_from > self.warmup or self.final == self.peak:
            yield f"at {self.peak:.3g}", self.decay_from + 1
        if self.final != self.peak and self.end > self.decay_from:
            yield f"{self.shape} to {self.final:.3g}", self.end + 1


def learning_rate(recipe: Recipe, samples: int) -> float:
    """The rate of the step after `samples`.

    A run whose global batch has changed goes on at the rate that its samples have come to. The stable phase of wsd does
    not know where the run ends: one that is made longer before its decay has begun has the past of the longer run.
    """
    return Schedule.of(recipe).rate(samples / recipe.global_train_batch_size)


def whole_steps(recipe: Recipe, time: str) -> int:
    return round(recipe.samples(time) / recipe.global_train_batch_size)
