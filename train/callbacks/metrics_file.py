"""metrics.jsonl: one row for each step and for each evaluation, exactly once, however often a run is killed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TextIO


class MetricsFile:
    """Appends rows; every row holds `batch`, the optimizer steps done when it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def open_after(self, batch: int) -> None:
        """Forget the rows after step `batch` (they will be written again) and any half-written line."""
        kept = [row for row in read_rows(self.path) if row["batch"] <= batch]
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self._file = self.path.open("a", buffering=1)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; JSON has no NaN and no infinity, so these become null."""
        assert self._file is not None, "open_after comes first"
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
