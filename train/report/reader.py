"""What a run directory says, as columns: a year of steps must fit in memory, and row after row does not."""

from __future__ import annotations

import json
import math
from array import array
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from data.manifest import Manifest
from train.callbacks.metrics_file import iterate_rows
from train.errors import RecipeError
from train.run_directory import RunDirectory

EXPERT_STEPS = 20  # one step is noisy: the experts' load at the end is taken over so many, or over a tenth of the run

Column = NDArray[np.float64]


class Columns:
    """Rows of numbers by name; what a row lacks, or holds anything else for, is NaN."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Column:
        """The column, or one of NaN if no row has it."""
        if name not in self._values:
            return np.full(self._length, math.nan)
        return np.frombuffer(self._values[name], dtype=np.float64)

    def add(self, row: dict[str, Any]) -> None:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        for name in numbers.keys() - self._values.keys():
            self._values[name] = array("d", [math.nan]) * self._length
        for name, column in self._values.items():
            column.append(numbers.get(name, math.nan))
        self._length += 1


@dataclass(frozen=True)
class Routing:
    """Where the tokens of each domain went, over the newest stretch of steps that has a row of it."""

    steps: int
    tokens_LME: NDArray[np.int64]  # [layers with experts, domains, experts]


@dataclass(frozen=True)
class Metrics:
    """All of metrics.jsonl that the page shows."""

    steps: Columns
    evaluations: Columns
    expert_tokens: Column | None  # [layers with experts, experts], summed over the last steps; None without any
    expert_steps: int  # how many
    routing: Routing | None  # None before the first row of it


@dataclass(frozen=True)
class RunRecord:
    """A run directory, read. Holds at least one step."""

    path: Path
    recipe_text: str
    manifest: Manifest
    plan: dict[str, Any]
    metrics: Metrics
    measured_at: datetime  # when metrics.jsonl was last written to
    events: list[dict[str, Any]]  # of events.jsonl, in the order in which they happened

    @property
    def domains(self) -> list[str]:
        """In the curriculum's order, which is also that of the colours."""
        return list(self.plan["domains"])

    @property
    def recipe(self) -> dict[str, Any]:
        return yaml.safe_load(self.recipe_text)

    @property
    def first_moe_layer(self) -> int:
        """Number, from 0, of the first layer that has experts."""
        return self.recipe.get("model", {}).get("ffn_config", {}).get("first_k_dense_replace", 0)

    @property
    def steps(self) -> Columns:
        return self.metrics.steps

    @property
    def evaluations(self) -> Columns:
        return self.metrics.evaluations

    @property
    def steps_done(self) -> int:
        return int(self.steps["batch"][-1])

    @property
    def tokens_done(self) -> int:
        return int(self.steps["tokens"][-1])

    @property
    def finished(self) -> bool:
        return self.tokens_done >= self.plan["tokens"]

    @property
    def planned_steps(self) -> int:
        """Of the whole run; before a change of the global batch they were of another size."""
        return self.steps_done + math.ceil((self.plan["tokens"] - self.tokens_done) / self.plan["tokens_per_step"])

    @property
    def step_tokens(self) -> Column:
        """Tokens of every step. A run's first row may come late, if its file was trimmed: that step is a usual one."""
        tokens = self.steps["tokens"]
        is_first = self.steps["batch"][0] == 1  # however large the batch was then
        first = tokens[0] if is_first else min(tokens[0], self.plan["tokens_per_step"])
        return np.diff(tokens, prepend=tokens[0] - first)

    def unigram_loss(self, domain: str) -> float | None:
        """What the domain's own unigram model loses on its held-out text."""
        record = self.manifest.domains.get(domain)
        return record.unigram_loss if record else None

    def heldout_loss(self, domain: str) -> Column:
        return self.evaluations[f"eval/domain/loss/{domain}"]


def read_run_record(run_dir: Path) -> RunRecord:
    """Read everything that the page shows.

    Raises:
        RecipeError: no such folder, no run in it, or no step done yet.
        DataError: its manifest is damaged.
    """
    run = RunDirectory(run_dir)
    check_is_run(run)
    metrics = read_metrics(run.metrics)
    if not len(metrics.steps):
        raise RecipeError(
            f"{run.metrics} holds no step yet; wait until the run's first step is done (steps of an older Brickyard, "
            "which called loss/total loss/train/total, are not read)"
        )
    return RunRecord(
        run_dir,
        run.recipe.read_text(encoding="utf-8"),
        Manifest.read(run_dir),
        read_plan(run.plan),
        metrics,
        datetime.fromtimestamp(run.metrics.stat().st_mtime, UTC),
        list(iterate_rows(run.events)),
    )


def check_is_folder(path: Path) -> None:
    if not path.is_dir():
        raise RecipeError(f"{path} is no folder; `brickyard report` takes a run's folder, such as runs/demo")


def check_is_run(run: RunDirectory) -> None:
    check_is_folder(run.path)
    for path in (run.recipe, run.plan):
        if not path.is_file():
            raise RecipeError(f"{run.path} holds no {path.name}, so it is no run's folder (such as runs/demo)")
    if not run.metrics.is_file():
        raise RecipeError(f"{run.path} holds no {run.metrics.name} yet; wait until the run's first step is done")


def read_plan(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path} is damaged ({error}); `brickyard train` with the run's recipe mends it") from None


def read_metrics(path: Path) -> Metrics:
    """Rows of steps and of evaluations; any other kind of row is left out."""
    steps, evaluations = Columns(), Columns()
    experts: deque[list[list[int]]] = deque(maxlen=EXPERT_STEPS)
    routing: Routing | None = None
    for row in iterate_rows(path):
        load = row.pop("moe/tokens_per_expert", None)
        if "loss/total" in row:
            steps.add(row)
            if load:
                experts.append(load)
        elif "moe/routing" in row:
            routing = Routing(row["moe/routing_steps"], np.array(row["moe/routing"], np.int64))
        elif any(name.startswith("eval/") for name in row):
            evaluations.add(row)
    newest = list(experts)[-max(1, len(steps) // 10) :]
    tokens = np.sum(np.asarray(newest, dtype=np.float64), axis=0) if newest else None
    return Metrics(steps, evaluations, tokens, len(newest), routing)
