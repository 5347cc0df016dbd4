"""A curriculum that changed while a run was going: what has been delivered stays, what comes follows the new one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.mixture.plan import Plan
from data.mixture.schedule import WEIGHT_UNIT, Schedule, ScheduleAnchor
from data.mixture.timeline import Era

# An anchor that is put on the line of a ramp rounds its weights; that does not make it another line.
SAME_WEIGHT = WEIGHT_UNIT >> 30


def continue_plan(
    past: Sequence[Era],
    position: int,
    schedule: Schedule,
    shard_rows: Mapping[str, Sequence[int] | NDArray[np.int64]],
    seed: int,
) -> Plan:
    """The plan of a run that followed `past` for `position` samples and goes on under `schedule`.

    A domain keeps its number for ever; new ones come after it.

    Args:
        past: the curricula so far; the last one was in force at `position`.
        shard_rows: the rows of every domain of `past` and of `schedule`, after those of `past` the new ones.
    """
    last = past[-1].schedule
    domains = (*last.domains, *(domain for domain in schedule.domains if domain not in last.domains))
    eras = [Era(era.start, over(era.schedule, domains), era.shards) for era in past if era.start < position]
    schedule = over(schedule, domains)
    shards = {domain: len(rows) for domain, rows in shard_rows.items()}
    if eras and eras[-1].schedule == schedule and eras[-1].shards.items() <= shards.items():
        *eras, latest = eras
        return Plan(schedule, shard_rows, seed, eras, latest.start)
    return Plan(schedule, shard_rows, seed, eras, position if eras else 0)


def first_difference(before: Schedule, now: Schedule, position: int) -> int | None:
    """A sample before `position` at which two schedules give other weights, or None.

    Between neighbouring anchors of either, weights are constant, a line, or a piece of a cosine: two that agree at both
    ends and at two places between them are the same.
    """
    domains = tuple(dict.fromkeys([*before.domains, *now.domains]))
    before, now = over(before, domains), over(now, domains)
    anchors = {anchor.at for schedule in (before, now) for anchor in schedule.anchors}
    edges = sorted({*(at for at in anchors if at < position), position})
    for low, high in itertools.pairwise(edges):
        last = high - 1
        for sample in (low, low + (last - low) // 4, low + (last - low) // 2, last):
            pairs = zip(before.weights_at(sample), now.weights_at(sample), strict=True)
            if any(abs(was - is_now) > SAME_WEIGHT for was, is_now in pairs):
                return sample
    return None


def over(schedule: Schedule, domains: Sequence[str]) -> Schedule:
    """The same schedule over more domains, or in another order; those that it does not know have no weight."""
    number = {domain: i for i, domain in enumerate(schedule.domains)}
    anchors = tuple(
        ScheduleAnchor(
            anchor.at,
            tuple(anchor.weights[number[domain]] if domain in number else 0 for domain in domains),
            anchor.ramp,
        )
        for anchor in schedule.anchors
    )
    return Schedule(tuple(domains), anchors)
