"""How many samples of each domain a run has had after each of its steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.mixture.plan import Plan

AHEAD = 32  # steps


class Delivered:
    """What `Plan.delivered` says, worked out for some steps ahead at once: one at a time takes several times as long,
    for a step's own work leaves nothing of this in the processor's caches.

    Args:
        batch: samples of a step.
    """

    def __init__(self, plan: Plan, batch: int) -> None:
        self.plan = plan
        self.batch = batch
        self._ahead: dict[int, NDArray[np.int64]] = {}

    def at(self, sample: int) -> NDArray[np.int64]:
        """[domains] samples of each domain among the samples before `sample`, where a step has ended."""
        if sample not in self._ahead:
            ends = range(sample, sample + AHEAD * self.batch, self.batch)
            self._ahead = {end: self.plan.delivered(end) for end in ends}
        return self._ahead[sample]
