"""Marks the parts of each step on its clock."""

from __future__ import annotations

from composer import Callback, Event, Logger, State

from train.step_clock import EVALUATION, StepClock

PART_FROM = {
    Event.BEFORE_DATALOADER: "data",
    Event.AFTER_DATALOADER: "rest",
    Event.BEFORE_FORWARD: "forward",
    Event.BEFORE_BACKWARD: "backward",
    Event.AFTER_BACKWARD: "optimizer",  # norms, clipping, the look-out for spikes, the update
    Event.BATCH_END: "rest",
    Event.EVAL_BEFORE_ALL: EVALUATION,
    Event.EVAL_AFTER_ALL: "rest",
}


class StepTimes(Callback):
    """Comes before the callbacks whose time is to be told apart. Saves and exchanges mark theirs by themselves."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            self.clock.start()
        elif event in PART_FROM:
            self.clock.mark(PART_FROM[event])
