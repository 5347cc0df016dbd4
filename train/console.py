"""What a person watching the run sees: a line per interval, readable on a terminal and in a log file."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from composer.utils import dist


class Console:
    """Prints on rank 0 only.

    Args:
        interval: steps between two lines.
        steps: of the whole run.
    """

    def __init__(self, interval: int, steps: int, domains: tuple[str, ...]) -> None:
        self.interval = interval
        self.steps = steps
        self.domains = domains
        self._first_step = 0
        self._began = 0.0

    def say(self, line: str) -> None:
        if dist.get_global_rank() == 0:
            with suppress(OSError):  # a full disk, a reader that has gone: no reason to stop training
                print(f"train: {line}", flush=True)

    def start(self, step: int) -> None:
        self._first_step, self._began = step, time.perf_counter()

    def step(self, row: dict[str, Any]) -> None:
        """One line every `interval` steps, and for the first step, which shows that it runs."""
        batch = row["batch"]
        if batch % self.interval and batch != self._first_step + 1 and batch != self.steps:
            return
        by_domain = "  ".join(f"{name} {cell(row[f'loss/train/{name}'])}" for name in self.domains)
        seconds = (time.perf_counter() - self._began) / max(1, batch - self._first_step) * (self.steps - batch)
        self.say(
            f"step {batch:,}/{self.steps:,}  loss {row['loss/train/cross_entropy']:.3f}  ({by_domain})  "
            f"lr {row['lr']:.2e}  {row['tokens_per_second']:,.0f} tok/s  {clock(seconds)} left"
        )

    def evaluation(self, row: dict[str, Any]) -> None:
        losses = "  ".join(f"{name} {row[key]:.3f}" for name in self.domains if (key := f"eval/{name}/loss") in row)
        self.say(f"step {row['batch']:,}: held-out loss  {losses}")


def cell(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.2f}"


def clock(seconds: float) -> str:
    """90 as 1:30, 3700 as 1:01:40."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
