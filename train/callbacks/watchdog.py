"""A rank that gets nowhere writes down where it is, and ends: the others, and who launched them, then end too."""

from __future__ import annotations

import faulthandler

from composer import Callback, Event, Logger, State


class Watchdog(Callback):
    """Ends this process, each thread's stack on stderr, if `timeout` seconds pass between two events of training.

    Its clock is a thread of C code (faulthandler), which goes on where Python and its lock hang.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event in (Event.FIT_END, Event.INIT):
            faulthandler.cancel_dump_traceback_later()
        elif event not in (Event.BEFORE_LOAD, Event.AFTER_LOAD):
            self.rewind()

    def rewind(self) -> None:
        """All is well: the clock begins anew."""
        faulthandler.dump_traceback_later(self.timeout, exit=True)

    def close(self, state: State, logger: Logger) -> None:
        faulthandler.cancel_dump_traceback_later()
