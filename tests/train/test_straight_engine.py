from types import SimpleNamespace
from typing import Any, cast

import pytest
from composer import Callback, Event, Logger, State, Trainer

from train.straight_engine import straighten


class AtTheEnd(Callback):
    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    def batch_end(self, state: State, logger: Logger) -> None:
        self.seen.append("at the end")


class Always(AtTheEnd):
    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        self.seen.append(str(event.value))


class Failing(Callback):
    def batch_end(self, state: State, logger: Logger) -> None:
        raise ValueError("on purpose")


def trainer_of(*callbacks: Callback, **state: Any) -> Trainer:
    """What `straighten` looks at."""
    found = {"callbacks": list(callbacks), "algorithms": [], "profiler": None, **state}
    return cast(
        Trainer,
        SimpleNamespace(
            state=SimpleNamespace(**found), logger=SimpleNamespace(destinations=()), engine=SimpleNamespace()
        ),
    )


def test_each_callback_is_taken_through_the_events_it_listens_to_in_order():
    seen: list[str] = []
    trainer = trainer_of(Callback(), AtTheEnd(seen), Always(seen))
    straighten(trainer)
    trainer.engine.run_event(Event.BATCH_START)
    trainer.engine.run_event("batch_end")
    assert seen == ["batch_start", "at the end", "batch_end"]


def test_what_a_callback_raises_comes_through_and_ends_the_event():
    seen: list[str] = []
    trainer = trainer_of(Failing(), Always(seen))
    straighten(trainer)
    with pytest.raises(ValueError, match="on purpose"):
        trainer.engine.run_event(Event.BATCH_END)
    assert seen == []


def test_a_trainer_with_algorithms_keeps_its_engine():
    with pytest.raises(AssertionError):
        straighten(trainer_of(algorithms=[object()]))
