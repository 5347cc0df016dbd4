"""The work of a job, kept beside its output: one folder a stage, named by a fingerprint of all that it depends on.

So a job that was killed, or whose recipe changed, finds what is whole and still wanted under its name, and does the
rest: no state but the folders' names says how far it came.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.manifest import canonical_json

UNFINISHED = ".unfinished"
NAME_DIGITS = 32  # of the fingerprint, in a folder's name


@dataclass(frozen=True)
class Stage:
    """What one stage left, and the fingerprint for those that depend on it."""

    fingerprint: str
    folder: Path


class Stages:
    """The stages of one job in `folder`, which only one job at a time may use."""

    def __init__(self, folder: Path, version: int) -> None:
        """`version`: of the code's meaning; under another one nothing is reused."""
        self.folder = folder
        self.version = version
        self._made: dict[str, list[bool]] = {}  # name -> of each of its stages, whether it was there already
        self._wanted: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"*{UNFINISHED}"):
            shutil.rmtree(leftover)

    def make(self, name: str, depends_on: Any, write: Callable[[Path], None], whole: str = "") -> Stage:
        """The stage, written by `write` into the folder it is given unless it is there.

        `depends_on`: JSON of everything that decides the content. `whole`: a part without which what is there is no
        longer the stage.
        """
        fingerprint = fingerprint_of([self.version, name, depends_on])
        folder = self.folder / f"{name}-{fingerprint[:NAME_DIGITS]}"
        found = (folder / whole).exists()
        self._made.setdefault(name, []).append(found)
        self._wanted.add(folder.name)
        if not found:
            unfinished = self.scratch(folder.name)
            write(unfinished)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        return Stage(fingerprint, folder)

    def scratch(self, name: str) -> Path:
        """A place that no stage has and that is gone at the next start; nothing is there."""
        folder = self.folder / f"{name}{UNFINISHED}"
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def remove_unwanted(self, keep: bool) -> None:
        """Removes what this job asked for in none of its calls: stages of other recipes, inputs and versions.

        `keep`: false removes the wanted ones as well.
        """
        for stage in self.folder.iterdir():
            if stage.is_dir() and not (keep and stage.name in self._wanted):
                shutil.rmtree(stage)

    def summary(self) -> str | None:
        """What was reused, in words; None if nothing was."""
        reused = {name: sum(found) for name, found in self._made.items() if any(found)}
        made = {name: len(found) - sum(found) for name, found in self._made.items() if not all(found)}
        return f"reused from an earlier run: {_list(reused)}; made anew: {_list(made)}" if reused else None


def fingerprint_of(content: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items()) or "nothing"
