from types import SimpleNamespace
from typing import Any, cast

import pytest
from composer import Callback, Event, Logger, State

from train.callbacks.all_in_one import AllInOne, members_of

NOWHERE: Any = None


class AtTheEnd(Callback):
    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def batch_end(self, state: State, logger: Logger) -> None:
        self.seen.append("at the end")

    def close(self, state: State, logger: Logger) -> None:
        self.seen.append("closed")


class Always(AtTheEnd):
    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        self.seen.append(str(event.value))


class Failing(Callback):
    def batch_end(self, state: State, logger: Logger) -> None:
        raise ValueError("on purpose")

    def close(self, state: State, logger: Logger) -> None:
        raise ValueError("closed on purpose")


def test_each_callback_is_taken_through_the_events_it_listens_to_in_order() -> None:
    seen: list[str] = []
    callbacks = AllInOne([Callback(), AtTheEnd(seen), Always(seen)])
    callbacks.run_event(Event.BATCH_START, NOWHERE, NOWHERE)
    callbacks.run_event(Event.BATCH_END, NOWHERE, NOWHERE)
    assert seen == ["batch_start", "at the end", "batch_end"]


def test_what_a_callback_raises_comes_through_and_ends_the_event() -> None:
    seen: list[str] = []
    callbacks = AllInOne([Failing(), Always(seen)])
    with pytest.raises(ValueError, match="on purpose"):
        callbacks.run_event(Event.BATCH_END, NOWHERE, NOWHERE)
    assert seen == []


def test_all_are_closed_whatever_one_raises() -> None:
    seen: list[str] = []
    callbacks = AllInOne([AtTheEnd(seen), Failing(), AtTheEnd(seen)])
    with pytest.raises(ValueError, match="closed on purpose"):
        callbacks.close(NOWHERE, NOWHERE)
    assert seen == ["closed", "closed"]


def test_members_are_found_one_by_one() -> None:
    one, other, alone = Callback(), Callback(), Callback()
    state = cast(State, SimpleNamespace(callbacks=[AllInOne([one, other]), alone]))
    assert list(members_of(state)) == [one, other, alone]
