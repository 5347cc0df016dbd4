"""A rank that gets nowhere writes down where it is, and ends: the others, and who launched them, then end too."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from composer import Callback, Event, Logger, State

LEAVE = 60.0  # seconds that a run which has failed has for its last files and for letting go of the others
GRACE = 15.0  # seconds by which C code's clock is behind ours


class Watchdog(Callback):
    """Ends this process, each thread's stack on stderr, if `timeout` seconds pass between two events of training; once
    half of them have passed, `alert` is told.

    Its clock is a thread of Python, which reads other threads' stacks while none of them runs. Where Python itself
    hangs, its lock never let go, a thread of C code (faulthandler) does the same a little later.
    """

    def __init__(self, timeout: float, alert: Callable[[str, str], None] = lambda title, text: None) -> None:
        self.timeout = timeout
        self.alert = alert
        self.alerted = False
        self.finished = False
        self.deadline: float | None = None  # by time.monotonic()
        self.moved = threading.Event()
        self.clock: threading.Thread | None = None

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        self.finished = event == Event.FIT_END
        if event in (Event.FIT_END, Event.INIT):
            self._set(None)
        elif event not in (Event.BEFORE_LOAD, Event.AFTER_LOAD):
            self.rewind()

    def rewind(self) -> None:
        """All is well: the clock begins anew."""
        self.alerted = False
        if self.clock is None or self.deadline is None:
            self._set(self.timeout)
        else:  # some events come every few milliseconds, and the clock itself looks
            self.deadline = time.monotonic() + self.timeout

    def suspend(self) -> None:
        """Nothing is timed until the next event."""
        self._set(None)

    def close(self, state: State, logger: Logger) -> None:
        # If unfinished, what is left of the process may still wait for ranks that are gone.
        self.alerted = True
        self._set(None if self.finished else min(self.timeout, LEAVE))

    def _set(self, seconds: float | None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        if self.clock is not None:
            self.moved.set()
        elif seconds is not None:
            self.clock = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self.clock.start()

    def _watch(self) -> None:
        while True:
            self.moved.clear()
            deadline = self.deadline
            if deadline is None:
                faulthandler.cancel_dump_traceback_later()
                self.moved.wait()
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                _write_stacks_and_leave(self.timeout)
            faulthandler.dump_traceback_later(left + GRACE, exit=True)
            self._alert_if_stalled(self.timeout - left)
            self.moved.wait(min(left, self.timeout / 4))

    def _alert_if_stalled(self, quiet: float) -> None:
        if quiet > self.timeout / 2 and not self.alerted:
            self.alerted = True
            self.alert("Stalled", f"nothing has happened for {quiet:,.0f} s; after {self.timeout:g} s the run ends")


def _write_stacks_and_leave(timeout: float) -> None:
    print(f"train: nothing has happened for {timeout:g} seconds; where each thread is:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback()
    os._exit(1)
