"""What a person watching the run sees: a line per interval, the same on a terminal and in a log file; on a terminal a
progress bar below; a summary at the end."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from composer.utils import dist

from data.words import duration, short
from train.progress_bar import ProgressBar

MOST_DOMAINS = 6  # in a line; metrics.jsonl and the summary have all


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
        self._bar = ProgressBar() if dist.get_global_rank() == 0 else None
        self._first_step = self._first_token = 0
        self._began = 0.0
        self._last: dict[str, Any] = {}  # row of a step
        self._evaluated: dict[str, Any] = {}  # and of an evaluation

    def say(self, line: str) -> None:
        if self._bar:
            with suppress(OSError):  # a full disk, a reader that has gone: no reason to stop training
                self._bar.print(f"train: {line}")

    def start(self, step: int, tokens: int) -> None:
        """Training goes on after so many steps and tokens."""
        self._first_step, self._first_token, self._began = step, tokens, time.perf_counter()

    def step(self, row: dict[str, Any]) -> None:
        """One line every `interval` steps, and for the first step, which shows that it runs."""
        self._last, batch = row, row["batch"]
        if batch % self.interval == 0 or batch in (self._first_step + 1, self.steps):
            by_domain = by_name({name: row[f"domain/loss/{name}"] for name in self.domains})
            self.say(
                f"step {batch:,}/{self.steps:,}  {short(row['tokens'])} tokens  "
                f"loss {row['loss/cross_entropy']:.3f}  ({by_domain})  "
                f"lr {row['optimizer/lr']:.2e}  {self._pace()}"
            )
        if self._bar:
            self._bar.draw(batch / self.steps, self._words)

    def evaluation(self, row: dict[str, Any]) -> None:
        self._evaluated = row
        losses = by_name({name: row[key] for name in self.domains if (key := f"eval/domain/loss/{name}") in row}, ".3f")
        self.say(f"step {row['batch']:,}: held-out loss  {losses}")

    def done(self, run: Path) -> None:
        """The summary: what was read, how fast, and what was learned of each domain."""
        self.close()
        self.say(f"done: {self.steps:,} steps; the run is in {run}")
        if not self._last:
            return
        seconds = time.perf_counter() - self._began
        first, tokens = self._first_step + 1, self._last["tokens"]
        speed = (tokens - self._first_token) / seconds
        took = f"steps {first:,} to {self._last['batch']:,} took {duration(seconds)}"
        self.say(f"  {short(tokens)} tokens in all; {took}, {speed:,.0f} tok/s with evaluation and saves")
        width = max(len("domain"), *map(len, self.domains))
        heldout = [key for name in self.domains if (key := f"eval/domain/loss/{name}") in self._evaluated]
        self.say(f"  {'domain':<{width}}  tokens  epochs   loss{'  held out' if heldout else ''}")
        for name in self.domains:
            self.say(
                f"  {name:<{width}}  {short(self._last[f'mixture/tokens/{name}']):>6}"
                f"  {self._last[f'mixture/epochs/{name}']:>6.2f}  {cell(self._last[f'domain/loss/{name}'], '.3f'):>5}"
                + (f"  {cell(self._evaluated.get(f'eval/domain/loss/{name}'), '.3f'):>8}" if heldout else "")
            )

    def close(self) -> None:
        """Take the bar away, if there is one."""
        if self._bar:
            self._bar.close()

    def _pace(self) -> str:
        """The last step's speed, and the time left at the mean speed of this start, evaluation and saves included."""
        speed, seconds = self._last["throughput/tokens_per_second"], self._last["throughput/seconds_left"]
        return f"{speed:,.0f} tok/s  {clock(seconds)} left"

    def _words(self) -> str:
        """How it goes, beside the bar."""
        row = self._last
        return f"{row['batch']:,}/{self.steps:,}  loss {row['loss/cross_entropy']:.3f}  {self._pace()}"


def by_name(losses: dict[str, float | None], form: str = ".2f") -> str:
    """`prose 4.35  code 4.86`, of many domains the first few."""
    shown = [f"{name} {cell(loss, form)}" for name, loss in losses.items()]
    more = len(shown) - MOST_DOMAINS
    return "  ".join(shown if more <= 0 else [*shown[:MOST_DOMAINS], f"and {more} more"])


def cell(loss: float | None, form: str = ".2f") -> str:
    return "-" if loss is None else format(loss, form)


def clock(seconds: float) -> str:
    """90 as 1:30, 3700 as 1:01:40, 200,000 as 2 d 7 h."""
    if seconds >= 48 * 3600:
        return duration(seconds)
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
