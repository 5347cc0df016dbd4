"""All callbacks of a run as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from composer import Callback, Event, Logger, State


class AllInOne(Callback):
    """Takes each of a run's callbacks through the events that it listens to, in order.

    Composer's engine comes by thirteen times a step. For each callback it has, it makes a list of those that are no
    loggers and puts a line of debugging together, written or not: with a dozen of them 2.5 of 500 ms.
    """

    def __init__(self, members: Sequence[Callback]) -> None:
        self.members = members
        self._listeners = {event: [one for one in members if listens(one, event)] for event in Event}

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        for member in self._listeners[event]:
            member.run_event(event, state, logger)

    def close(self, state: State, logger: Logger) -> None:
        """All of them, whatever one raises."""
        with ExitStack() as closing:
            for member in reversed(self.members):
                closing.callback(member.close, state, logger)


def members_of(state: State) -> Iterator[Callback]:
    """A trainer's callbacks, one by one."""
    for callback in state.callbacks:
        if isinstance(callback, AllInOne):
            yield from callback.members
        else:
            yield callback


def listens(callback: Callback, event: Event) -> bool:
    """Whether it does anything then."""
    own = type(callback)
    return own.run_event is not Callback.run_event or getattr(own, event.value) is not getattr(Callback, event.value)
