"""What two runs of the same steps have alike in metrics.jsonl."""

from pathlib import Path
from typing import Any

from train.callbacks.metrics_file import iterate_rows

OF_THE_MACHINE = ("throughput/", "memory/")


def rows(run: Path) -> list[dict[str, Any]]:
    """Every row, without what depends on the clock or on the machine."""
    return [comparable(row) for row in iterate_rows(run / "metrics.jsonl")]


def step_rows(run: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run) if "loss/total" in row]


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(OF_THE_MACHINE)}
