"""Domains that grow during a run: what was drawn stays, and every row still comes once before any comes again."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mixture.epochs import Growth
from data.mixture.history import continue_plan
from data.mixture.order import SHARDS_PER_GROUP, DomainOrder, draw_rows
from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor, quantise
from data.mixture.timeline import Era

SHARDS = st.lists(st.integers(1, 7), min_size=1, max_size=30)
Rows = list[int]


def order_of(parts: Sequence[Rows], draws: Sequence[int]) -> DomainOrder:
    """A domain that had `parts[0]`, and at each of `draws` one part more."""
    had = np.cumsum([len(part) for part in parts]).tolist()
    growths = [Growth(draw, shards) for draw, shards in zip(draws, had[:-1], strict=True)]
    return DomainOrder("web", np.concatenate(parts), 5, growths)


def drawn(order: DomainOrder, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, row) of the draws before `stop`."""
    return draw_rows([order], np.zeros(stop, np.int32), np.arange(stop))


@settings(deadline=None)
@given(parts=st.lists(SHARDS, min_size=1, max_size=5), data=st.data())
def test_what_was_drawn_stays_and_each_epoch_is_whole(parts: list[Rows], data: st.DataObject) -> None:
    most = 2 * sum(map(sum, parts))
    growths = len(parts) - 1
    draws = sorted(data.draw(st.lists(st.integers(1, most), min_size=growths, max_size=growths)))
    for grown in range(growths):  # each growth leaves everything before it
        before, after = order_of(parts[: grown + 1], draws[:grown]), order_of(parts[: grown + 2], draws[: grown + 1])
        for was, now in zip(drawn(before, draws[grown]), drawn(after, draws[grown]), strict=True):
            assert (was == now).all()
    order = order_of(parts, draws)
    stop = most + order.row_count + 1
    epoch, row = drawn(order, stop)
    assert (np.diff(epoch) >= 0).all()
    begins = [order.epochs.begin(number) for number in range(int(epoch[-1]) + 1)]
    assert begins == [int(np.searchsorted(epoch, number)) for number in range(int(epoch[-1]) + 1)]
    for number in range(int(epoch[-1])):  # all that were there by its end, once each
        last = begins[number + 1] - 1
        shards = sum(len(part) for part, since in zip(parts, [0, *draws], strict=True) if since <= last)
        rows = int(order.shard_rows[:shards].sum())
        assert sorted(row[epoch == number].tolist()) == list(range(rows))
    assert order.epochs.done(np.array(begins)).tolist() == list(range(len(begins)))
    shard_of = np.repeat(np.arange(len(order.shard_rows)), order.shard_rows)
    for count in data.draw(st.lists(st.integers(1, stop), max_size=5)):
        touched = set(shard_of[row[:count]].tolist())
        told = set(order.shards_touched(count).tolist())
        assert touched <= told
        if epoch[count - 1] == 0:
            assert len(told) <= len(touched) + SHARDS_PER_GROUP - 1  # those of the group in hand


@pytest.mark.parametrize("draw", [1, 999, 1000, 2500])
def test_few_shards_are_open_at_once(draw: int) -> None:
    """From the first draw of a shard in an epoch to its last, no more than a group's are."""
    epoch, row = drawn(order_of([[10] * 100, [10] * 50], [draw]), 5000)
    use = epoch * 150 + row // 10
    first = {shard: place for place, shard in reversed(list(enumerate(use.tolist())))}
    last = {shard: place for place, shard in enumerate(use.tolist())}
    change = np.zeros(5001, np.int64)
    np.add.at(change, list(first.values()), 1)
    np.add.at(change, np.array(list(last.values())) + 1, -1)
    assert np.cumsum(change).max() == SHARDS_PER_GROUP


def test_new_rows_come_at_once_and_well_mixed() -> None:
    """In the epoch in hand, and as often early in what is left of it as late."""
    order = order_of([[10] * 400, [10] * 400], [1000])
    _, row = drawn(order, 8000)
    new = row[1000:] >= 4000
    early, late = new[: len(new) // 2].mean(), new[len(new) // 2 :].mean()
    assert new.sum() == 4000 and early == pytest.approx(late, abs=0.1)


def test_the_order_of_a_grown_domain_is_fixed_for_ever() -> None:
    _, row = drawn(order_of([[3] * 9, [2] * 9, [4]], [5, 31]), 60)
    assert row.tolist() == [
        9, 23, 5, 11, 17, 14, 15, 4, 20, 25, 21, 16, 13, 7, 8, 10, 6, 12, 19, 22,
        3, 26, 18, 24, 38, 1, 34, 43, 32, 31, 27, 40, 37, 0, 42, 44, 41, 28, 33, 2,
        39, 30, 29, 46, 48, 47, 36, 45, 35, 22, 17, 24, 10, 9, 23, 15, 6, 21, 13, 35,
    ]  # fmt: skip


DOMAINS = ("web", "code")


def schedule(web: float) -> Schedule:
    return Schedule(DOMAINS, (ScheduleAnchor(0, quantise({"web": web, "code": 1 - web}, DOMAINS)),))


def sizes(rows: Mapping[str, Rows]) -> dict[str, int]:
    return {domain: len(shards) for domain, shards in rows.items()}


@settings(max_examples=30, deadline=None)
@given(
    positions=st.lists(st.integers(0, 900), min_size=1, max_size=4).map(sorted),
    more=st.lists(st.tuples(SHARDS, SHARDS), min_size=4, max_size=4),
)
def test_a_run_goes_on_over_what_has_grown(positions: list[int], more: list[tuple[Rows, Rows]]) -> None:
    rows = {"web": [5] * 20, "code": [4] * 9}
    plan = Plan(schedule(0.7), rows, seed=5)
    eras = [Era(0, plan.schedule, sizes(rows))]
    for position, (web, code) in zip(positions, more, strict=False):
        rows = {"web": [*rows["web"], *web], "code": [*rows["code"], *code]}
        grown = continue_plan(eras, position, plan.schedule, rows, 5)
        assert (grown[0:position] == plan[0:position]).all()
        assert (grown.delivered(2000) == plan.delivered(2000)).all()  # weights decide that alone
        assert continue_plan(grown.eras, position + 1, plan.schedule, rows, 5).fingerprint != plan.fingerprint
        eras = [Era(era.start, era.schedule, era.shards) for era in grown.eras[:-1]]
        eras.append(Era(grown.eras[-1].start, grown.schedule, sizes(rows)))
        again = continue_plan(eras, position + 1, plan.schedule, rows, 5)  # and nothing is new
        assert again.fingerprint == grown.fingerprint
        plan = grown
    samples = plan[0:3000]
    for number in range(2):
        mine = samples[samples["domain"] == number]
        assert len(set(zip(mine["epoch"].tolist(), mine["row"].tolist(), strict=True))) == len(mine)
