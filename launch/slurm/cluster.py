"""What a SLURM cluster is asked for: yamls/clusters/slurm.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from launch.cluster import Cluster
from train.schema import Problem

TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+:\d\d(:\d\d)?")


def seconds(time: str) -> int:
    """MINUTES:SECONDS, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS, of which the last ones may be missing."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, secs = [*parts, 0, 0][:3]
    else:
        hours, (minutes, secs) = 0, parts
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + secs


@dataclass(kw_only=True)
class SlurmCluster(Cluster):
    """Restarts are those in one allocation of nodes; requeues are not counted."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # the limit, such as "24:00:00" or "2-00:00:00"; null: the partition's
    save_before: int = 300  # seconds before the limit when the run saves and ends, to be requeued
    options: list[str] = field(default_factory=list)  # of sbatch, such as --exclusive (all CPUs, too)
    setup: list[str] = field(default_factory=list)  # lines of shell run before, such as `module load cuda`
    python: str | None = None  # an interpreter that every node has; null: the one that submits

    place_of_secrets: ClassVar[str] = "set it where you launch, the job inherits it"

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.at_least(1, "save_before")
        if self.time is not None and not TIME.fullmatch(self.time):
            yield "time", f'expected hours or days in quotes, such as "24:00:00" or "2-00:00:00", found {self.time}'
        elif self.time is not None and (limit := seconds(self.time)) <= self.save_before:
            saves = f"more than save_before ({self.save_before} s), when the job saves and is requeued"
            yield "time", f"expected {saves}, found {self.time}, which is {limit} s"
        for index, option in enumerate(self.options):
            if not option.startswith("--"):
                yield f"options[{index}]", f"expected an option of sbatch, such as --exclusive, found {option}"
