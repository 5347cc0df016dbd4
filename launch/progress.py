"""How far a command has come, on a terminal; gone when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def byte_progress(command: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told the bytes done since it was called last."""
    console = Console(stderr=True)
    columns = TextColumn(f"{command}:"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(command, total=total)
        yield lambda done: progress.advance(task, done)
