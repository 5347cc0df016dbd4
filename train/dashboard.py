"""What everything that shows a run's rows can do: W&B, TensorBoard, MLflow. It looks on, and never stops training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image

from train.progress_bar import CLEAR


class Dashboard:
    """Takes rows at their steps, on rank 0. What one of them can't show it passes over."""

    def open_after(self, batch: int) -> None:
        """Training goes on after step `batch`: what was shown of later steps will be written again."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Show a row's numbers at its step."""

    def write_picture(self, name: str, picture: Image, caption: str, row: Mapping[str, Any]) -> None:
        """Show a picture at a row's step."""

    def alert(self, title: str, text: str) -> None:
        """Tell who wants to be told. Called from any thread."""

    def saved(self, address: str, step: int) -> None:
        """Lead to a checkpoint. Called from any thread."""

    def close(self) -> None:
        """Nothing more is written."""


def alert(dashboards: Sequence[Dashboard], title: str, text: str) -> None:
    for dashboard in dashboards:
        dashboard.alert(title, text)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row is a number, and no list of numbers."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def news(row: Mapping[str, Any], last: dict[str, int]) -> dict[str, float]:
    """The numbers that come later than the newest of their kind, which `last` keeps (the step, by key): the rows of a
    step, its evaluation and its routing all say their tokens."""
    found = {key: value for key, value in numbers(row).items() if last.get(key, -1) < row["batch"]}
    last.update(dict.fromkeys(found, row["batch"]))
    return found


def warn(sentence: str) -> None:
    over_the_bar = CLEAR if sys.stderr.isatty() else ""
    print(f"{over_the_bar}train: warning: {sentence}", file=sys.stderr, flush=True)
