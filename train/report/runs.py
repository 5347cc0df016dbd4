"""Several runs side by side: their names, and what each came to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.report.reader import Column, Columns, RunRecord
from train.report.series import present, smoothed


@dataclass(frozen=True)
class Runs:
    """The runs, each under a name that no other has, in the order of their colours."""

    by_name: Mapping[str, RunRecord]

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> Runs:
        names = [str(run.plan["run_name"]) for run in runs]
        if len(set(names)) < len(names):
            names = [os.fspath(run.path) for run in runs]
        return cls(dict(zip(names, runs, strict=True)))

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    @property
    def records(self) -> list[RunRecord]:
        return list(self.by_name.values())

    @property
    def domains(self) -> list[str]:
        """Of all of them."""
        return list(dict.fromkeys(domain for run in self.records for domain in run.domains))

    @property
    def common_tokens(self) -> int:
        """As far as all of them have come."""
        return min(run.tokens_done for run in self.records)

    def losses(self, column: str) -> dict[str, float]:
        """By run that has it: the smoothed loss as far as all of them have come."""
        found = {name: step_value(run, column, self.common_tokens) for name, run in self.by_name.items()}
        return {name: loss for name, loss in found.items() if loss is not None}

    def heldout(self) -> dict[str, float]:
        """By run that has any: its last held-out loss as far as all of them have come."""
        found = {name: heldout(run, self.common_tokens) for name, run in self.by_name.items()}
        return {name: loss for name, loss in found.items() if loss is not None}

    def medians(self, column: str) -> dict[str, float]:
        """By run that has it: the median over its steps."""
        found = {name: run.steps[column] for name, run in self.by_name.items()}
        return {name: float(np.nanmedian(values)) for name, values in found.items() if np.isfinite(values).any()}

    def different_keys(self) -> dict[str, list[Any]]:
        """The keys of the recipes that are not alike in all, with each run's value."""
        leaves = [dict(flat(run.recipe)) for run in self.records]
        keys = dict.fromkeys(key for of_run in leaves for key in of_run if key != "run_name")
        values = {key: [of_run.get(key) for of_run in leaves] for key in keys}
        return {key: of_runs for key, of_runs in values.items() if any(value != of_runs[0] for value in of_runs)}


def step_value(run: RunRecord, column: str, tokens: float = np.inf) -> float | None:
    """A smoothed column where the run had come to so many tokens; by default at its end."""
    return newest(run.steps, smoothed(run.steps[column]), tokens)


def heldout(run: RunRecord, tokens: float = np.inf) -> float | None:
    """The last held-out loss until then."""
    return newest(run.evaluations, run.evaluations["eval/loss/cross_entropy"], tokens)


def newest(rows: Columns, values: Column, tokens: float) -> float | None:
    x, y = present(rows["tokens"], values)
    place = int(np.searchsorted(x, tokens, side="right")) - 1
    return float(y[place]) if place >= 0 else None


def flat(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a recipe under its path, as overrides name it."""
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif isinstance(content, list) and content:
        for number, value in enumerate(content):
            yield from flat(value, f"{path}[{number}]")
    else:
        yield path, content
