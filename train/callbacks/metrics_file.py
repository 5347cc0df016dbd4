"""metrics.jsonl: one row for each step and for each evaluation, exactly once, however often a run is killed."""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from train.errors import RecipeError


class MetricsFile:
    """Appends rows; every row holds `batch`, the optimizer steps done when it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def open_after(self, batch: int) -> None:
        """Forget the rows after step `batch` (they will be written again) and any half-written line.

        It takes as long as there are rows to forget, however many there are before them.

        Raises:
            RecipeError: a line among them, or the one before, is damaged.
        """
        self.close()
        if self.path.exists():
            os.truncate(self.path, end_of_rows(self.path, batch))
        self._file = self.path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; JSON has no NaN and no infinity, so these become null."""
        assert self._file is not None, "open_after comes first"
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        try:
            self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # of a row that there was no room for, which was said
                self._file.close()
            self._file = None


def end_of_rows(path: Path, batch: int) -> int:
    """Where the last row ends that was written at step `batch` or before; looked for from the end."""
    if not path.stat().st_size:
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1  # what comes after it was cut short
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            try:
                if json.loads(content[start:end])["batch"] <= batch:
                    return end
            except (ValueError, TypeError, KeyError):
                raise damaged(path, content[:start].count(b"\n") + 1) from None
            end = start
    return 0


def rows_from(path: Path, batch: int) -> list[dict[str, Any]]:
    """The rows of step `batch` and after, all whole; looked for from the end.

    Raises:
        RecipeError: a line among them, or the one before, is damaged.
    """
    with path.open("rb") as file:
        file.seek(end_of_rows(path, batch - 1))
        return [json.loads(line) for line in file]


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl, if there is one; a last line that was cut short is left out.

    Raises:
        RecipeError: a line that was written whole is no JSON.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n"):
                    raise damaged(path, number) from None
                return
            yield row


def damaged(path: Path, number: int) -> RecipeError:
    return RecipeError(f"{path}:{number}: this line is damaged; mend it, or take it out")
