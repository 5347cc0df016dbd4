"""A place of a run, in each of the units that people think in."""

from __future__ import annotations

from dataclasses import dataclass

from data.words import short
from train.recipe import Recipe


@dataclass(frozen=True)
class Steps:
    """Which step reads which sample. A run that goes on may have another global batch than before.

    Attributes:
        done: steps of the run so far.
        samples: that these have read.
        batch: samples of every further one.
    """

    done: int
    samples: int
    batch: int

    @classmethod
    def of(cls, recipe: Recipe, done: int = 0, samples: int = 0) -> Steps:
        """Of a run that begins, or goes on, under this recipe."""
        return cls(done, samples, recipe.global_train_batch_size)

    def reading(self, sample: int) -> int | None:
        """The step (from 1) that reads a sample; None in a past whose global batch was another, and is not known."""
        if sample >= self.samples:
            return self.done + (sample - self.samples) // self.batch + 1
        return sample // self.batch + 1 if self.done * self.batch == self.samples else None

    def until(self, end: int) -> int:
        """Steps of the run when it has read `end` samples."""
        return self.done - (self.samples - end) // self.batch


def place_of(recipe: Recipe, steps: Steps, sample: int) -> dict[str, int | None]:
    """A sample's index, the tokens before it, and the step that reads it (from 1), where that is known."""
    return {"sample": sample, "tokens": sample * recipe.max_seq_len, "step": steps.reading(sample)}


def moment(recipe: Recipe, steps: Steps, sample: int) -> str:
    """When a sample is read."""
    step, tokens = steps.reading(sample), f"{short(sample * recipe.max_seq_len)} tokens into the run"
    return tokens if step is None else f"in step {step:,} of {steps.until(recipe.end):,} ({tokens})"


def step_cell(step: int | None) -> str:
    """Of a table."""
    return "-" if step is None else f"{step:,}"
