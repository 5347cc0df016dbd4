"""Where the time of a step goes, in every step: marks, between which time counts as one part's."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

EVALUATION = "evaluation"  # between two steps, and of neither
PARTS = ("data", "forward", "backward", "all_to_all", "optimizer", "checkpoint", "rest")


class StepClock:
    """One part at a time, from its mark to the next one.

    On a GPU a mark is a CUDA event among the kernels, which waits for nothing: a part is what the GPU did, or waited
    for, from one to the next, so the parts add up to the time that has passed there as well. They are read in `take`.
    """

    def __init__(self, device: torch.device) -> None:
        self._stamp: Callable[[], Any] = cuda_event if device.type == "cuda" else time.perf_counter
        self._between: Callable[[Any, Any], float] = cuda_seconds if device.type == "cuda" else seconds
        self._marks: list[tuple[str, Any]] = []
        self.start()

    @property
    def part(self) -> str:
        """The one that time counts as now."""
        return self._marks[-1][0]

    def start(self) -> None:
        """Forget what was; from now on time is nobody's."""
        self._marks = [("rest", self._stamp())]

    def mark(self, part: str) -> None:
        """From now on time is this part's."""
        self._marks.append((part, self._stamp()))

    @contextmanager
    def during(self, part: str) -> Iterator[None]:
        """Within it time is this part's, then again that of the one before. What evaluation does is evaluation's."""
        before = self.part
        if before == EVALUATION:
            yield
            return
        self.mark(part)
        try:
            yield
        finally:
            self.mark(before)

    def take(self) -> dict[str, float]:
        """Seconds of each part since it was last taken. Waits for the GPU, so it is for a step's end, where the trainer
        has just done so."""
        self.mark(self.part)
        stamps = [stamp for _, stamp in self._marks]
        if isinstance(stamps[-1], torch.cuda.Event):
            stamps[-1].synchronize()
        taken: dict[str, float] = defaultdict(float)
        for (part, begin), end in zip(self._marks, stamps[1:], strict=False):
            taken[part] += self._between(begin, end)
        self._marks = self._marks[-1:]
        return {part: taken[part] for part in (*PARTS, EVALUATION)}


def seconds(begin: float, end: float) -> float:
    return end - begin


def cuda_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def cuda_seconds(begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return begin.elapsed_time(end) / 1e3
