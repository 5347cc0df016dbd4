"""The run in Weights & Biases: one run under one id, however often it is resumed, with tokens as the x axis.

Composer's own WandBLogger calls `Run.get_url`, which wandb 0.31 no longer has; and it would log each loss one step
before ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from PIL.Image import Image

from train.errors import RecipeError
from train.recipe import WandbConfig

ANSWER = 30.0  # seconds that W&B has to answer when a run begins
GOODBYE = 60.0  # seconds to send the last rows when it ends
Mode = Literal["offline", "online", "disabled"]


class WandbRun:
    """Sends rows to W&B (or to its offline files); does nothing where the mode is `disabled`."""

    def __init__(self, config: WandbConfig, name: str, identity: str, folder: Path, recipe: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")

        def open_run(mode: Mode) -> wandb.Run:
            return wandb.init(
                project=config.project,
                entity=config.entity,
                group=config.group,
                tags=config.tags,
                name=name,
                id=identity,
                resume="allow",
                mode=mode,
                dir=str(folder),
                config=dict(recipe),
                settings=wandb.Settings(
                    x_disable_stats=mode == "disabled",
                    console="off",
                    init_timeout=ANSWER,
                    login_timeout=ANSWER,
                    finish_timeout=GOODBYE,
                ),
            )

        try:
            run = open_run(config.mode)
        except wandb.errors.UsageError as error:
            raise RecipeError(f"wandb.mode: {str(error).splitlines()[0]}") from None
        except wandb.errors.CommError:
            warn(f"W&B can't be reached: this start is written to {folder}/wandb, and `wandb sync` sends it later")
            wandb.teardown()  # its process still holds the id
            run = open_run("offline")
        run.define_metric("tokens")
        run.define_metric("*", step_metric="tokens")
        self._run: wandb.Run | None = run

    def write(self, row: Mapping[str, Any]) -> None:
        """Log a row's numbers at its step."""
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        self._try(lambda run: run.log(numbers, step=row["batch"]))

    def write_picture(self, name: str, picture: Image, caption: str, row: Mapping[str, Any]) -> None:
        """Log a picture at a row's step."""
        shown = {name: wandb.Image(picture, caption=caption), "tokens": row["tokens"]}
        self._try(lambda run: run.log(shown, step=row["batch"]))

    def close(self) -> None:
        self._try(lambda run: run.finish())

    def _try(self, action: Callable[[wandb.Run], object]) -> None:
        """W&B looks on: where its process is gone, training and metrics.jsonl go on without it."""
        if self._run is None:
            return
        try:
            action(self._run)
        except OSError as error:
            self._run = None
            warn(f"W&B is gone ({error}); metrics.jsonl goes on")


def warn(sentence: str) -> None:
    print(f"train: warning: {sentence}", file=sys.stderr, flush=True)
