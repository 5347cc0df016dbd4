"""A curriculum that changes: its past is compared as weights, not as words."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixture.history import continue_plan, first_difference, over
from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise
from data.mixture.timeline import Era

DOMAINS = ("web", "code")
ROWS = {"web": [100] * 20, "code": [37] * 11, "math": [50] * 3}


def schedule(*anchors: tuple[int, float, str], domains: tuple[str, ...] = DOMAINS) -> Schedule:
    """Anchors as (at, share of web, ramp); the last domain has the rest."""
    return Schedule(
        domains,
        tuple(
            ScheduleAnchor(at, quantise({domains[0]: web, domains[-1]: 1 - web}, domains), ramp)
            for at, web, ramp in anchors
        ),
    )


BEGINNING = schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "cosine"))


@pytest.mark.parametrize(
    ("now", "position", "difference"),
    [
        (BEGINNING, 10**9, None),
        (schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "step")), 1000, None),
        (schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "step")), 2000, 1249),
        (schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.3, "cosine")), 1001, None),
        (schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.3, "cosine")), 1100, 1024),
        (schedule((0, 0.8, "step"), (900, 0.44, "linear"), (901, 0.0, "step")), 900, None),  # on the line
        (schedule((0, 0.8, "step"), (900, 0.45, "linear"), (901, 0.0, "step")), 900, 224),
        (schedule((0, 0.8, "step"), (900, 0.44, "linear"), (901, 0.0, "step")), 902, 901),
        (schedule((0, 0.7, "step")), 1, 0),
        (schedule((0, 0.7, "step")), 0, None),
    ],
)
def test_the_past_is_compared_as_weights(now: Schedule, position: int, difference: int | None) -> None:
    assert first_difference(BEGINNING, now, position) == difference


def test_domains_may_be_named_in_another_order() -> None:
    turned = over(BEGINNING, ("math", "code", "web"))
    assert turned.weights_at(0)[1:] == BEGINNING.weights_at(0)[::-1]
    assert first_difference(BEGINNING, turned, 10_000) is None


@settings(max_examples=25, deadline=None)
@given(positions=st.lists(st.integers(0, 8000), min_size=1, max_size=4).map(sorted), shares=st.lists(st.floats(0, 1)))
def test_any_number_of_changes_leaves_what_was_delivered(positions: list[int], shares: list[float]) -> None:
    """Each row comes once an epoch through all the changes, and each change leaves everything before it."""
    plan = Plan(BEGINNING, ROWS, seed=5)
    for position, share in zip(positions, [*shares, 0.5, 0.1, 0.9, 0.0], strict=False):
        kept = tuple(anchor for anchor in plan.schedule.anchors if anchor.at <= position)
        now = Schedule(
            plan.domains, (*kept, ScheduleAnchor(position + 1, schedule((0, share, "step")).anchors[0].weights))
        )
        changed = continue_plan(plan.eras, position, now, ROWS, 5)
        assert (changed[0:position] == plan[0:position]).all()
        assert (changed.delivered(position) == plan.delivered(position)).all()
        plan = changed
    samples = plan[0:12_000]
    for number, order in enumerate(plan.orders):
        mine = samples[samples["domain"] == number]
        assert (mine["epoch"] == np.arange(len(mine)) // order.row_count).all()
        assert len(set(zip(mine["epoch"].tolist(), mine["row"].tolist(), strict=True))) == len(mine)


def test_a_domain_may_come_and_go() -> None:
    plan = Plan(BEGINNING, ROWS, seed=5)
    domains = (*DOMAINS, "math")
    come = ScheduleAnchor(6000, quantise({"math": 0.1, "code": 0.9}, domains))
    added = continue_plan(plan.eras, 6000, Schedule(domains, (*over(BEGINNING, domains).anchors, come)), ROWS, 5)
    assert added.domains == ("web", "code", "math")
    assert (added[0:6000] == plan[0:6000]).all()
    assert added.delivered(7000)[0] == plan.delivered(6000)[0]
    assert added.delivered(7000)[2] == pytest.approx(100, abs=2)


def test_going_on_unchanged_is_the_same_plan() -> None:
    plan = Plan(BEGINNING, ROWS, seed=5)
    assert continue_plan(plan.eras, 1234, BEGINNING, ROWS, 5).fingerprint == plan.fingerprint
    later = schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "cosine"), (9000, 0.5, "step"))
    changed = continue_plan(plan.eras, 1234, later, ROWS, 5)
    assert changed.eras == (Era(0, BEGINNING), Era(1234, later))
    again = continue_plan(changed.eras, 4321, later, ROWS, 5)
    assert again.fingerprint == changed.fingerprint


def test_a_change_that_never_came_to_train_is_forgotten() -> None:
    """A run killed before its first checkpoint under the new curriculum goes on from the old one's."""
    plan = Plan(BEGINNING, ROWS, seed=5)
    later = schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "cosine"), (9000, 0.5, "step"))
    other = schedule((0, 0.8, "step"), (1000, 0.4, "linear"), (5000, 0.2, "cosine"), (9000, 0.7, "step"))
    changed = continue_plan(plan.eras, 1234, later, ROWS, 5)
    assert continue_plan(changed.eras, 1234, other, ROWS, 5).eras == (Era(0, BEGINNING), Era(1234, other))
