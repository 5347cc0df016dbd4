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
    """At `sample` no other domain could take the place of `gone`."""

    def __init__(self, gone: int, sample: int) -> None:
        super().__init__(f"nothing can take the place of domain {gone} at sample {sample}")
        self.gone = gone
        self.sample = sample


def used_up(schedule: Schedule, limits: Mapping[int, int], end: int) -> list[tuple[int, int]]:
    """(sample, domain), in order of samples, of each domain of which more than its limit is asked before `end`.

    Up to that sample, half a sample less than the limit is asked: what is left for rounding, of the target to a count
    and of the weights on a ramp that is cut there.
    """
    found = []
    for domain, limit in limits.items():
        if schedule.target(end)[domain] > limit * WEIGHT_UNIT:
            most = limit * WEIGHT_UNIT - WEIGHT_UNIT // 2
            within = bisect_right(range(end), most, key=lambda sample: schedule.target(sample)[domain])
            found.append((max(0, within - 1), domain))
    return sorted(found)


def reallocate(
    schedule: Schedule, limits: Mapping[int, int], fixed_at: FixedAt, end: int
) -> tuple[Schedule, dict[int, int]]:
    """The schedule that asks for no more than the limits before sample `end`, and where each domain ends that reaches
    its own: its weight is 0 from there on, and the others share it in proportion to theirs.

    Raises:
        NothingLeft: no other domain has a weight that may grow.
    """
    ends: dict[int, int] = {}
    while over := used_up(schedule, limits, end):
        sample, gone = over[0]
        straight = straightened(schedule, sample)
        if straight == schedule:
            schedule, ends[gone] = without(schedule, gone, sample, fixed_at), sample
        else:  # which moves the targets a little: look again
            schedule = straight
    return schedule, ends


def without(schedule: Schedule, gone: int, sample: int, fixed_at: FixedAt) -> Schedule:
    """The schedule with no weight for domain `gone` from `sample` on; the ramps after it are straight already."""

    def weights_at(at: int) -> Weights:
        return passed_on(schedule, gone, at, fixed_at(at))

    anchors = [anchor for anchor in schedule.anchors if anchor.at < sample]
    coming = [anchor for anchor in schedule.anchors if anchor.at >= sample]
    if coming and coming[0].ramp != "step" and anchors[-1].at < sample - 1:
        anchors.append(ScheduleAnchor(sample - 1, schedule.weights_at(sample - 1), coming[0].ramp))
    anchors.append(ScheduleAnchor(sample, weights_at(sample)))
    for anchor in coming:
        if anchor.at > sample:
            arrival = replace(anchor, weights=weights_at(anchor.at))
            anchors += [arrival] if anchor.ramp == "step" else straight_pieces(weights_at, anchors[-1], arrival)
    return replace(schedule, anchors=tuple(anchors))


def passed_on(schedule: Schedule, gone: int, sample: int, fixed: frozenset[int]) -> Weights:
    """The weights at `sample` with that of domain `gone` shared out among the others."""
    weights = schedule.weights_at(sample)
    if not weights[gone]:
        return weights
    takers = [domain for domain, weight in enumerate(weights) if weight and domain != gone and domain not in fixed]
    if not takers:
        raise NothingLeft(gone, sample)
    to_takers = sum(weights[domain] for domain in takers)
    growth = Fraction(to_takers + weights[gone], to_takers)
    shares = {name: Fraction(weights[domain]) for domain, name in enumerate(schedule.domains) if domain != gone}
    shares.update({schedule.domains[domain]: weights[domain] * growth for domain in takers})
    return quantise(shares, schedule.domains)


def straightened(schedule: Schedule, after: int) -> Schedule:
    """The schedule with straight pieces in place of the cosines that end after sample `after`."""
    anchors = list(schedule.anchors[:1])
    for anchor in schedule.anchors[1:]:
        if anchor.ramp == "cosine" and anchor.at > after:
            # From the middle: there the curve meets the straight line from end to end.
            middle = (anchors[-1].at + anchor.at) // 2
            centre = ScheduleAnchor(middle, schedule.weights_at(middle), "linear")
            if middle > anchors[-1].at:
                anchors += straight_pieces(schedule.weights_at, anchors[-1], centre)
            anchors += straight_pieces(schedule.weights_at, anchors[-1], replace(anchor, ramp="linear"))
        else:
            anchors.append(anchor)
    return replace(schedule, anchors=tuple(anchors))


def straight_pieces(weights_at: WeightsAt, first: ScheduleAnchor, last: ScheduleAnchor) -> list[ScheduleAnchor]:
    """Anchors after `first` up to `last` between which the curve `weights_at` is as good as straight."""
    middle = (first.at + last.at) // 2
    centre = ScheduleAnchor(middle, weights_at(middle), "linear")
    way = Fraction(middle - first.at, last.at - first.at)
    ends = zip(first.weights, last.weights, strict=True)
    off = max(abs(a + (b - a) * way - here) for (a, b), here in zip(ends, centre.weights, strict=True))
    if off <= TOLERANCE or last.at - first.at <= SHORTEST_PIECE:
        return [last]
    return straight_pieces(weights_at, first, centre) + straight_pieces(weights_at, centre, last)
