"""The folder of a run: everything that is known about it lies here, and only one process group writes to it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from data.manifest import Manifest, has_grown
from train.changes import Change, changes, refusal
from train.checkpoints.names import newest_checkpoint, steps_of
from train.errors import RecipeError
from train.reader import to_yaml
from train.recipe import Recipe


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
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def stop(self) -> Path:
        """A file that asks whoever launched the run to have it saved and ended."""
        return self.path / "stop"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

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

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            RecipeError: it can't be made, or nothing can be written to it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").open("a").close()
        except OSError as error:
            raise RecipeError(f"run_root: {self.path} can't be written to ({error.strerror})") from None

    def lock(self) -> TextIO:
        """Take the run for this process until the returned file is closed, or the process is gone.

        Raises:
            RecipeError: another process has it, or it can't be written to.
        """
        self.make()
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

    def is_taken(self) -> bool:
        """Whether a process trains it, as far as this machine's view of the folder tells."""
        if not (lock := self.path / ".lock").exists():
            return False
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def changes(self, recipe: Recipe) -> list[Change]:
        """What the recipe says otherwise than the one that the run was last started with; nothing for a new run."""
        if not self.recipe.exists():
            return []
        return changes(Recipe, yaml.safe_load(self.recipe.read_text()), yaml.safe_load(to_yaml(recipe)))

    def check_same_run(self, recipe: Recipe, manifest: Manifest) -> None:
        """Refuse to go on with a run under another recipe, or with other data.

        Raises:
            RecipeError: shows every key that differs, with both values, and which of them can be allowed.
        """
        if not self.recipe.exists():
            return
        found = self.changes(recipe)
        before = Manifest.read(self.path)
        if not has_grown(before, manifest):
            was, is_now = before.fingerprint, manifest.fingerprint
            found.append(Change("dataset", f"prepared as {was[:12]}", f"prepared as {is_now[:12]}"))
        if refused := refusal(found, recipe.resume.allow):
            raise RecipeError(f"{self.path}: {refused}, or choose another run_name, or delete {self.path}")

    def describe(self, recipe: Recipe, manifest: Manifest, summary: dict[str, Any]) -> None:
        """Write what the run is made of; each file whole or not at all."""
        manifest.write(self.path)
        write_whole(self.plan, json.dumps(summary, indent=1))
        write_whole(self.recipe, to_yaml(recipe))


def write_whole(path: Path, text: str) -> None:
    """Write a file by way of a temporary one, so that no reader ever sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
