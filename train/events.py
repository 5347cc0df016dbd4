"""events.jsonl: what happened to a run beside its training, in the order in which it happened.

Nothing is ever taken out: steps that a killed run makes again may say the same again.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from train.callbacks.metrics_file import iterate_rows
from train.run_directory import RunDirectory, write_whole

ROLLBACK, START, SAVED = "rollback", "start", "saved"
_WRITING = threading.Lock()  # saves end in a thread of their own


@dataclass(frozen=True)
class Rollback:
    """A run that went back, and what it has passed over since.

    Attributes:
        step: whose loss stood out.
        back_to: steps of the checkpoint that it went back to.
        first, end: samples `first <= n < end` are read, but not learned.
    """

    step: int
    back_to: int
    first: int
    end: int

    def passes_over(self, first: int, end: int) -> bool:
        """Whether any of the samples `first <= n < end` is passed over."""
        return first < self.end and self.first < end


def record(run: RunDirectory, event: str, **details: Any) -> None:
    """Add an event; it is there whole or not at all."""
    row = {"event": event, "time": datetime.now(UTC).isoformat(timespec="seconds"), **details}
    with _WRITING:
        rows = [*iterate_rows(run.events), row]
        write_whole(run.events, "".join(f"{json.dumps(row)}\n" for row in rows))


def record_rollback(run: RunDirectory, rollback: Rollback, **details: Any) -> None:
    """From here on the run passes over its samples, however often it is killed."""
    record(run, ROLLBACK, **asdict(rollback), **details)


def rollbacks_of(run: RunDirectory) -> tuple[Rollback, ...]:
    """Every time that the run went back, the first one first."""
    return tuple(read_rollback(row) for row in iterate_rows(run.events) if row["event"] == ROLLBACK)


def read_rollback(row: dict[str, Any]) -> Rollback:
    """One as it stands in a file, among whatever else."""
    return Rollback(row["step"], row["back_to"], row["first"], row["end"])
