"""Signals that ask for the same thing."""

from __future__ import annotations

import math
import time

TOGETHER = 1.0  # seconds


class Wish:
    """Signals that come together are one: a scheduler sends SIGTERM to every process of a job, the launcher among them,
    and that hands it on to its ranks, who have it already."""

    def __init__(self) -> None:
        self.first = -math.inf

    def is_new(self) -> bool:
        """Of a signal that has come now: whether it is not the one before, heard again."""
        now = time.monotonic()
        if now - self.first < TOGETHER:
            return False
        self.first = now
        return True
