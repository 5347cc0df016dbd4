"""When a domain has had all the samples that it may have, and who takes its place from there on.

Domains are numbers here, in the schedule's order. Limits are samples over the whole run, of the domains that have one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

from data.mixture.schedule import WEIGHT_UNIT, Schedule, ScheduleAnchor, quantise

Weights = tuple[int, ...]
WeightsAt = Callable[[int], Weights]
FixedAt = Callable[[int], frozenset[int]]  # sample -> the domains whose weights must not grow there

# A curve is followed in straight pieces that leave no weight of it by more than about this.
TOLERANCE = WEIGHT_UNIT // 10_000
SHORTEST_PIECE = 16  # samples


class NothingLeft(Exception):
    """At `sample` no other domain could take the place of those that are `gone`."""

    def __init__(self, gone: frozenset[int], sample: int) -> None:
        super().__init__(f"nothing can take the place of domains {sorted(gone)} at sample {sample}")
        self.gone = gone
        self.sample = sample


def used_up(schedule: Schedule, limits: Mapping[int, int], end: int) -> list[tuple[int, int]]:
    """(sample, domain), in order of samples, of each domain of which more than its limit is asked before `end`.

    `sample` is the last one before which no more than the limit is asked; on a ramp half a sample less, which is left
    for the rounding of the weights where the ramp is cut.
    """
    found = []
    for domain, limit in limits.items():
        if schedule.target(end)[domain] > limit * WEIGHT_UNIT:
            sample = last_within(schedule, domain, limit * WEIGHT_UNIT, end)
            if on_ramp(schedule, sample):
                sample = last_within(schedule, domain, limit * WEIGHT_UNIT - WEIGHT_UNIT // 2, end)
            found.append((sample, domain))
    return sorted(found)


def last_within(schedule: Schedule, domain: int, most: int, end: int) -> int:
    """The last sample up to `end` before which no more than `most` (samples / WEIGHT_UNIT) is asked of the domain."""
    return max(0, bisect_right(range(end + 1), most, key=lambda sample: schedule.target(sample)[domain]) - 1)


def on_ramp(schedule: Schedule, sample: int) -> bool:
    """Whether the sample lies on a ramp, or at its end."""
    coming = [anchor for anchor in schedule.anchors if anchor.at >= sample]
    return bool(coming) and coming[0].ramp != "step"


def reallocate(
    plain: Schedule, limits: Mapping[int, int], fixed_at: FixedAt, end: int
) -> tuple[Schedule, dict[int, int]]:
    """The schedule that asks for no more than the limits before sample `end`, and where each domain ends that reaches
    its own: its weight is 0 from there on, and the others share it in proportion to theirs.

    All anchors are worked out, also those after the end: a run that is made longer on its way keeps its past.

    Raises:
        NothingLeft: no other domain has a weight that may grow.
    """
    schedule = plain
    ends: dict[int, int] = {}
    while over := used_up(schedule, limits, max(end, plain.anchors[-1].at)):
        sample, gone = over[0]
        straight = straightened(schedule, sample)
        if straight != schedule:  # which moves the targets a little: look again
            schedule = straight
            continue
        try:
            schedule = continued(schedule, sample, plain, frozenset({*ends, gone}), fixed_at)
        except NothingLeft:
            if sample >= end:  # the run never comes there
                break
            raise
        ends[gone] = sample
    return schedule, {gone: sample for gone, sample in ends.items() if sample < end}


def continued(schedule: Schedule, sample: int, plain: Schedule, gone: frozenset[int], fixed_at: FixedAt) -> Schedule:
    """`schedule` up to `sample`, and from there on `plain` without the domains that are gone.

    A ramp that is cut at `sample` is straight, and keeps its way up to the sample before.
    """

    def weights_at(at: int) -> Weights:
        return passed_on(plain, at, gone, fixed_at(at))

    anchors = [anchor for anchor in schedule.anchors if anchor.at < sample]
    if on_ramp(schedule, sample) and anchors[-1].at < sample - 1:
        anchors.append(ScheduleAnchor(sample - 1, schedule.weights_at(sample - 1), "linear"))
    anchors.append(ScheduleAnchor(sample, weights_at(sample)))
    for anchor in plain.anchors:
        if anchor.at > sample:
            arrival = replace(anchor, weights=weights_at(anchor.at))
            ramp_start = plain.weights_at(anchors[-1].at)
            unchanged = not any(ramp_start[domain] or anchor.weights[domain] for domain in gone)
            if anchor.ramp == "step" or unchanged:
                anchors.append(arrival)
            else:
                anchors += straight_pieces(weights_at, anchors[-1], replace(arrival, ramp="linear"))
    return replace(schedule, anchors=tuple(anchors))


def passed_on(schedule: Schedule, sample: int, gone: frozenset[int], fixed: frozenset[int]) -> Weights:
    """The weights at `sample`, where those of the domains that are gone are shared out among the others."""
    weights = schedule.weights_at(sample)
    freed = sum(weights[domain] for domain in gone)
    if not freed:
        return weights
    takers = [domain for domain, weight in enumerate(weights) if weight and domain not in gone | fixed]
    if not takers:
        raise NothingLeft(gone, sample)
    to_takers = sum(weights[domain] for domain in takers)
    shares = {name: Fraction(weights[domain]) for domain, name in enumerate(schedule.domains) if domain not in gone}
    for domain in takers:
        shares[schedule.domains[domain]] *= Fraction(to_takers + freed, to_takers)
    return quantise(shares, schedule.domains)


def straightened(schedule: Schedule, sample: int) -> Schedule:
    """The schedule with straight pieces in place of the cosine on which `sample` lies, if it lies on one."""
    anchors = list(schedule.anchors[:1])
    for anchor in schedule.anchors[1:]:
        if anchor.ramp == "cosine" and anchors[-1].at < sample <= anchor.at:
            anchors += straight_pieces(schedule.weights_at, anchors[-1], replace(anchor, ramp="linear"))
        else:
            anchors.append(anchor)
    return replace(schedule, anchors=tuple(anchors))


def straight_pieces(weights_at: WeightsAt, first: ScheduleAnchor, last: ScheduleAnchor) -> list[ScheduleAnchor]:
    """Anchors after `first` up to `last` between which the curve `weights_at` is as good as straight."""
    length = last.at - first.at
    quarters = [
        ScheduleAnchor(first.at + length * k // 4, weights_at(first.at + length * k // 4), "linear") for k in (1, 2, 3)
    ]
    if length <= SHORTEST_PIECE or all(distance(first, last, point) <= TOLERANCE for point in quarters):
        return [last]
    middle = quarters[1]
    return straight_pieces(weights_at, first, middle) + straight_pieces(weights_at, middle, last)


def distance(first: ScheduleAnchor, last: ScheduleAnchor, point: ScheduleAnchor) -> Fraction:
    """How far any weight of a point is from the straight line between two others."""
    way = Fraction(point.at - first.at, last.at - first.at)
    weights = zip(first.weights, last.weights, point.weights, strict=True)
    return max(abs(before + (after - before) * way - here) for before, after, here in weights)
