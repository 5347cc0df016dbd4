"""The folder of a run: everything that is known about it lies here, and only one process group writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from data.manifest import Manifest
from train.checkpoint_files import newest_checkpoint, steps_of
from train.errors import RecipeError
from train.reader import to_yaml
from train.recipe import Recipe

# Keys that may differ when a run goes on. The future of the curriculum is one of them: train/history.py holds its past.
FREE_KEYS = (
    "run_root",
    "max_duration",
    "global_train_batch_size",
    "device_train_microbatch_size",
    "save_interval",
    "eval_interval",
    "log_interval",
    "dataset.path",
    "dataset.remote",
    "dataset.cache_limit",
    "dataset.num_workers",
    "dataset.predownload",
    "checkpoints",
    "dist_timeout",
    "parallel",
    "model.attn_implementation",
    "wandb",
    "audit",
    "curriculum.anchors",
    "curriculum.groups",
    "curriculum.max_epochs",
    "curriculum.when_used_up",
    "curriculum.normalise_weights",
)


@dataclass(frozen=True)
class RunDirectory:
    """RUN_ROOT/RUN_NAME."""

    path: Path

    @classmethod
    def of(cls, recipe: Recipe) -> RunDirectory:
        return cls(Path(recipe.run_root) / recipe.run_name)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def wandb_id(self) -> str:
        """The run's id in W&B: made once, kept for every time the run goes on."""
        path = self.path / "wandb_id"
        if not path.exists():
            write_whole(path, secrets.token_hex(4))
        return path.read_text()

    def steps_done(self) -> int:
        """Optimizer steps in the newest checkpoint; 0 without one."""
        checkpoint = newest_checkpoint(self.checkpoints)
        return steps_of(checkpoint) if checkpoint else 0

    def lock(self) -> TextIO:
        """Take the run for this process until the returned file is closed, or the process is gone.

        Raises:
            RecipeError: another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RecipeError(
                f"{self.path}: process {file.read().strip() or '?'} is training this run; stop it, "
                "or choose another run_name"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file

    def check_same_run(self, recipe: Recipe, manifest: Manifest) -> None:
        """Refuse to go on with a run under another recipe.

        Raises:
            RecipeError: names the first key that differs, with both values.
        """
        if not self.recipe.exists():
            return
        began_with = yaml.safe_load(self.recipe.read_text())
        for key, before, now in differences(began_with, yaml.safe_load(to_yaml(recipe))):
            if not key.startswith(FREE_KEYS):
                raise self.changed(f"{key} was {before!r} and is now {now!r}")
        plan = json.loads(self.plan.read_text())
        if plan["dataset"] != manifest.fingerprint:
            raise self.changed(f"the dataset in {recipe.dataset.path} is another one (it was prepared anew)")

    def changed(self, what: str) -> RecipeError:
        return RecipeError(
            f"{self.path}: this run began with another recipe: {what}; undo that, or choose another run_name, "
            f"or delete {self.path}"
        )

    def describe(self, recipe: Recipe, manifest: Manifest, summary: dict[str, Any]) -> None:
        """Write what the run is made of; each file whole or not at all."""
        manifest.write(self.path)
        write_whole(self.plan, json.dumps(summary, indent=1))
        write_whole(self.recipe, to_yaml(recipe))


def write_whole(path: Path, text: str) -> None:
    """Write a file by way of a temporary one, so that no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, before, now) of every leaf in which two plain structures differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif before != now:
        yield path, before, now
