"""The time that experts spend in exchanging tokens, in both directions and both passes, whichever implementation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed

from data.mixture.spans import replaced
from train.step_clock import StepClock


@contextmanager
def timed_exchanges(clock: StepClock) -> Iterator[None]:
    """Meanwhile `torch.distributed.all_to_all_single` counts as the clock's `all_to_all`, the wait for other ranks with
    it. It is what MegaBlocks and our own experts call for each exchange, backward ones too, and nothing else in a step
    does; neither has a place for a clock.
    """
    plain = torch.distributed.all_to_all_single

    def timed(*arguments: Any, **more: Any) -> Any:
        with clock.during("all_to_all"):
            work = plain(*arguments, **more)
        return work and TimedWork(work, clock)

    with replaced(torch.distributed, "all_to_all_single", timed):
        yield


class TimedWork:
    """An exchange that goes on beside something else: waiting for it counts."""

    def __init__(self, work: torch.distributed.Work, clock: StepClock) -> None:
        self._work = work
        self._clock = clock

    def wait(self) -> bool:
        with self._clock.during("all_to_all"):
            return self._work.wait()
