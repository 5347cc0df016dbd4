"""How fast a run goes, of what its devices could do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from model.flops import training_flops_per_token
from train.accelerators import peak_flops
from train.recipe import Recipe
from train.step_clock import PARTS


@dataclass
class Throughput:
    """The `throughput/` columns of each step's row.

    MFU, model FLOPs utilisation, is the model's FLOPs over what all devices could have done in the time at their peak
    (PaLM, arXiv 2204.02311, appendix B): tokens per second x FLOPs per token / (ranks x peak FLOP/s of a device). The
    FLOPs of a token are three times those of its forward pass: 6 for each parameter that it meets in a matrix product,
    of experts those that it visits, and those of causal attention (`model.flops.training_flops_per_token`). What is
    recomputed does not count, nor does a document's end shorten attention here.

    Attributes:
        peak: FLOP/s of one rank's device; None on a CPU, and where it is not known: there is no MFU then.
    """

    flops_per_token: float
    ranks: int
    peak: float | None
    _first: tuple[float, int] = (0.0, 0)  # when this start began, and at how many tokens

    @classmethod
    def of(cls, recipe: Recipe, ranks: int) -> Throughput:
        """Of a run on this machine's devices."""
        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        flops = training_flops_per_token(recipe.model, recipe.max_seq_len)
        return cls(flops, ranks, peak_flops(name, recipe.precision))

    def start(self, tokens: int) -> None:
        """Training goes on after so many tokens."""
        self._first = (time.perf_counter(), tokens)

    def columns(self, parts: dict[str, float], step: tuple[int, int], done: int, planned: int) -> dict[str, Any]:
        """The columns of a step.

        Args:
            parts: its seconds by part; evaluation is left out, all else is its time.
            step: its tokens and samples, over all ranks.
            done, planned: tokens of the run.
        """
        seconds, (tokens, samples) = sum(parts[part] for part in PARTS), step
        flops = tokens * self.flops_per_token / seconds
        began, before = self._first
        pace = (time.perf_counter() - began) / (done - before)  # with evaluation and saves
        return {
            "throughput/tokens_per_second": tokens / seconds,
            "throughput/samples_per_second": samples / seconds,
            "throughput/model_flops_per_second": flops,
            **({"throughput/mfu": flops / (self.ranks * self.peak)} if self.peak else {}),
            "throughput/seconds": seconds,
            **{f"throughput/seconds/{part}": parts[part] for part in PARTS},
            "throughput/tokens_left": planned - done,
            "throughput/seconds_left": pace * (planned - done),
        }
