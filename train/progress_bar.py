"""A progress bar on the last line of a terminal, below the lines that are said; nothing where there is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress

CLEAR = "\r\x1b[K"
EVERY = 0.1  # seconds between two drawings at least
NARROWEST, WIDEST = 5, 40


class ProgressBar:
    """Every line that is to stand above it is printed by `print`."""

    def __init__(self) -> None:
        self.shown = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._line = ""
        self._drawn = 0.0

    def print(self, line: str) -> None:
        if not self.shown:
            print(line, flush=True)
            return
        self._write(f"{CLEAR}{line}\n{self._line}")

    def draw(self, share: float, describe: Callable[[], str]) -> None:
        """`share` of the work is done, from 0 to 1; `describe` says in a few words how it goes."""
        now = time.monotonic()
        if not self.shown or (now - self._drawn < EVERY and share < 1):
            return
        self._drawn = now
        # The cursor goes back, so that whatever others print begins where a line does.
        self._line = bar_line(share, describe(), shutil.get_terminal_size().columns, can_draw()) + "\r"
        self._write(f"{CLEAR}{self._line}")

    def close(self) -> None:
        """Take it away."""
        if self._line:
            self._line = ""
            self._write(CLEAR)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a terminal that is gone
            sys.stdout.write(text)
            sys.stdout.flush()


def bar_line(share: float, words: str, columns: int, drawn: bool) -> str:
    """` 51% ━━━━━━──────  words`, never wider than the terminal, which would break it into two lines."""
    full, rest = ("━", "─") if drawn else ("#", "-")
    width = min(WIDEST, columns - len(words) - 9)
    bar = f"{full * int(share * width)}{rest * (width - int(share * width))}  " if width >= NARROWEST else ""
    return f"{int(100 * share):3d}% {bar}{words}"[: columns - 1]


def can_draw() -> bool:
    """Whether the terminal's encoding has the bar's characters."""
    try:
        "━─".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
