"""Words for those who wait: said only when something takes long."""

from __future__ import annotations

import time
from collections.abc import Callable

Say = Callable[[str], None]


def silent(line: str) -> None:
    """Says nothing."""


def patient(say: Say, seconds: float = 2.0) -> Say:
    """Passes a line on to `say` only when this many seconds have passed since the last one, or since now."""
    last = time.monotonic()

    def say_sometimes(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            say(line)
            last = time.monotonic()

    return say_sometimes
