"""Starting a run again after failures: how often, and after how long."""

from __future__ import annotations

import time

from launch.say import say
from launch.stopping import told_to_stop
from train.callbacks.metrics_file import iterate_rows
from train.events import SAVED, START
from train.run_directory import RunDirectory

FAILED, STOPPED = 1, 143  # exit codes
LONGEST_WAIT = 600  # seconds


def wait_of_restart(run: RunDirectory, wait: int) -> int:
    """Seconds before a restart, where the cluster counts restarts but does not wait: `wait`, and twice as many for each
    start but the first one since the newest checkpoint."""
    events = [row["event"] for row in iterate_rows(run.events)]
    in_vain = events[::-1].index(SAVED) if SAVED in events else len(events)
    starts = events[len(events) - in_vain :].count(START)
    return min(wait * 2 ** max(0, starts - 1), LONGEST_WAIT)


class Restarts:
    """Counts failures that come one after another, no checkpoint between them.

    Args:
        limit: of restarts.
        wait: seconds before the first one; twice as many before each further one.
    """

    def __init__(self, run: RunDirectory, limit: int, wait: int) -> None:
        self.run = run
        self.limit = limit
        self.wait = wait
        self.failures = 0
        self.steps = run.steps_done()

    def after_failure(self) -> int | None:
        """Wait, and begin anew (None), or end with this exit code."""
        if (steps := self.run.steps_done()) != self.steps:  # fewer after a rollback, which is progress too
            self.failures, self.steps = 0, steps
        self.failures += 1
        if self.failures > self.limit:
            say(f"failed {self.failures} times without a checkpoint between; the same command goes on from the newest")
            return FAILED
        wait = min(self.wait * 2 ** (self.failures - 1), LONGEST_WAIT)
        say(f"restart {self.failures} of {self.limit} in {wait} s, from step {self.steps:,}")
        if self.told_to_stop_within(wait):
            say("stopped before the restart; the same command goes on from the newest checkpoint")
            return STOPPED
        return None

    def told_to_stop_within(self, within: float) -> bool:
        """By `brickyard launch stop`, while nothing runs."""
        deadline = time.monotonic() + within
        while not told_to_stop(self.run.stop):
            if time.monotonic() > deadline:
                return False
            time.sleep(min(1.0, within))
        return True
