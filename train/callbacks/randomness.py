"""Dropout and router jitter as a function of (seed, step, rank), so that a resumed run draws the same numbers."""

from __future__ import annotations

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from data.mixture.permutation import derive_key


class StepSeed(Callback):
    """Seeds torch anew at every step. Composer restores no generator when a run resumes inside an epoch."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def batch_start(self, state: State, logger: Logger) -> None:
        seed = derive_key("step", self.seed, state.timestamp.batch.value, dist.get_global_rank()) % 2**63
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would note the stack for each kind of device
        if torch.cuda.is_available():
            torch.cuda.manual_seed(seed)
