"""A rank that gets nowhere writes down where it is, and ends: the others, and who launched them, then end too."""

from __future__ import annotations

import faulthandler

from composer import Callback, Event, Logger, State

LEAVE = 60.0  # seconds that a run which has failed has for its last files and for letting go of the others


class Watchdog(Callback):
    """Ends this process, each thread's stack on stderr, if `timeout` seconds pass between two events of training.

    Its clock is a thread of C code (faulthandler), which goes on where Python and its lock hang.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.finished = False

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        self.finished = event == Event.FIT_END
        if event in (Event.FIT_END, Event.INIT):
            faulthandler.cancel_dump_traceback_later()
        elif event not in (Event.BEFORE_LOAD, Event.AFTER_LOAD):
            self.rewind()

    def rewind(self) -> None:
        """All is well: the clock begins anew."""
        faulthandler.dump_traceback_later(self.timeout, exit=True)

    def close(self, state: State, logger: Logger) -> None:
        if self.finished:
            faulthandler.cancel_dump_traceback_later()
        else:  # what is left of the process may still wait for ranks that are gone
            faulthandler.dump_traceback_later(min(self.timeout, LEAVE), exit=True)
