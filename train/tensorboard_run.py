"""The run in TensorBoard: one folder, however often it is resumed, and every metric once.

Composer's own TensorboardLogger keeps the rows of steps that are trained again, and would log each loss one step before
ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from torch.utils.tensorboard import SummaryWriter

from train.dashboard import Dashboard, news, warn


class TensorboardRun(Dashboard):
    """Writes event files into `folder`; x is the step."""

    def __init__(self, folder: Path, recipe: str) -> None:
        self.folder = folder
        self.recipe = recipe
        self._writer: SummaryWriter | None = None
        self._last: dict[str, int] = {}

    def open_after(self, batch: int) -> None:
        """Begin a file that tells TensorBoard to drop the steps after `batch` that older files have."""

        def begin(writer: SummaryWriter) -> None:
            writer.add_text("recipe", f"```yaml\n{self.recipe}```", batch + 1)  # at 0 it would look like a step undone

        self.close()
        self._last = {}
        self._writer = SummaryWriter(str(self.folder), purge_step=batch + 1)
        self._try(begin)

    def write(self, row: Mapping[str, Any]) -> None:
        def scalars(writer: SummaryWriter) -> None:
            for key, value in news(row, self._last).items():
                writer.add_scalar(key, value, row["batch"])

        self._try(scalars)

    def write_picture(self, name: str, picture: Image, caption: str, row: Mapping[str, Any]) -> None:
        self._try(lambda writer: writer.add_image(name, np.asarray(picture), row["batch"], dataformats="HWC"))

    def close(self) -> None:
        self._try(lambda writer: writer.close(), last=True)

    def _try(self, action: Callable[[SummaryWriter], object], last: bool = False) -> None:
        """What is written is on the disk before a checkpoint can say that its step is done."""
        if self._writer is None:
            return
        try:
            action(self._writer)
            self._writer.flush()
        except OSError as error:
            last = True
            warn(f"TensorBoard's files can't be written ({error}); metrics.jsonl goes on")
        if last:
            self._writer = None
