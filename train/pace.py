"""Have a run's steps become much slower?"""

from __future__ import annotations

import statistics
from collections import deque

WINDOW = 20  # steps; a slow one or two, such as the first of a start, tell nothing
FACTOR = 3.0  # times as long as in the fastest window so far


class Pace:
    """Says so once, and again only after steps have come back below half of that."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._fastest = float("inf")
        self._slow = False

    def slower(self, seconds: float) -> float | None:
        """How many times as long as before the steps take, if the one that took `seconds` shows that they have just
        become much slower; None otherwise."""
        self._recent.append(seconds)
        if len(self._recent) < WINDOW:
            return None
        now = statistics.median(self._recent)
        self._fastest = min(self._fastest, now)
        times = now / self._fastest
        was, self._slow = self._slow, times > (FACTOR / 2 if self._slow else FACTOR)
        return times if self._slow and not was else None
