"""What an audit finds, and what it comes to."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from train.audit.starts import RecordedStart

NAMED = 4  # discrepancies of each kind that are named; all are counted


@dataclass(frozen=True)
class Discrepancy:
    """One thing that is not as it should be; `step` and `sample` where it is about one."""

    where: str
    expected: str
    found: str
    step: int | None = None
    sample: int | None = None


@dataclass
class Findings:
    """All discrepancies counted by kind, and the first few: (kind, discrepancy)."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, Discrepancy]] = field(default_factory=list)

    def add(self, kind: str, discrepancies: Iterable[Discrepancy], count: int = 1) -> None:
        """`count` discrepancies of one kind; no more of them are made than will be named."""
        if count:
            self.counts[kind] += count
            room = max(0, NAMED - sum(known == kind for known, _ in self.first))
            self.first += [(kind, discrepancy) for discrepancy in itertools.islice(discrepancies, room)]


@dataclass(frozen=True)
class Total:
    """Of one domain, by the records that count and are right."""

    samples: int
    epochs: float


@dataclass(frozen=True)
class Verdict:
    """What the audit of a run came to.

    Attributes:
        superseded: records of steps that a later start trained again.
        unfinished: records of steps after those that are audited: not every rank has written them yet.
        tokens: whether these were compared with the dataset's.
    """

    starts: list[RecordedStart]
    domains: dict[str, Total]
    superseded: int
    unfinished: int
    tokens: bool
    findings: Findings

    @property
    def holds(self) -> bool:
        return not self.findings.counts

    @property
    def steps(self) -> int:
        """That count."""
        return sum(start.last - start.step for start in self.starts)

    @property
    def samples(self) -> int:
        return sum(total.samples for total in self.domains.values())

    @property
    def ranks(self) -> list[int]:
        """Numbers of ranks that the run had, in ascending order."""
        return sorted({start.start.ranks for start in self.starts if start.start})

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "holds": self.holds,
            "steps": self.steps,
            "samples": self.samples,
            "tokens_compared": self.tokens,
            "ranks": self.ranks,
            "starts": [start_as_json(start) for start in self.starts],
            "domains": {name: asdict(total) for name, total in self.domains.items()},
            "superseded_records": self.superseded,
            "unfinished_records": self.unfinished,
            "discrepancies": dict(self.findings.counts),
            "first_discrepancies": [{"kind": kind, **asdict(one)} for kind, one in self.findings.first],
        }


def start_as_json(start: RecordedStart) -> dict[str, Any]:
    about = start.start
    return {
        "start": start.number,
        "after_step": start.step,
        "counted_steps": start.last - start.step,
        "ranks": about.ranks if about else None,
        "global_train_batch_size": about.batch if about else None,
    }
