"""Who watches a run from elsewhere is told that it has stalled, or become slow, once each time."""

import time

import pytest

from train.callbacks.watchdog import Watchdog
from train.pace import WINDOW, Pace


def told(pace: Pace, *seconds: float) -> list[float]:
    """What it says of a window of steps of each of these lengths."""
    return [times for each in seconds for _ in range(WINDOW) if (times := pace.slower(each)) is not None]


def test_steps_that_become_much_slower_are_told_once() -> None:
    pace = Pace()
    assert told(pace, 1.0, 2.0, 1.0) == []
    assert told(pace, 4.0, 6.0) == [4.0]
    assert told(pace, 2.0, 4.0) == []  # it has never been well since
    assert told(pace, 1.0, 5.0) == [5.0]


def test_a_slow_step_now_and_then_is_no_news() -> None:
    pace = Pace()
    assert not any(pace.slower(60.0 if step % 3 == 0 else 1.0) for step in range(200))


def test_half_of_the_wait_is_told_once_and_again_after_a_step() -> None:
    alerts: list[str] = []
    watchdog = Watchdog(600.0, alert=lambda title, text: alerts.append(f"{title}: {text}"))
    for quiet in (200.0, 301.0, 450.0):
        watchdog._alert_if_stalled(quiet)
    assert alerts == ["Stalled: nothing has happened for 301 s; after 600 s the run ends"]
    watchdog.rewind()
    watchdog._set(None)
    watchdog._alert_if_stalled(302.0)
    assert len(alerts) == 2


def test_what_takes_long_on_purpose_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the next event: a rollback reads checkpoints, however large they are."""
    left: list[float] = []
    monkeypatch.setattr("train.callbacks.watchdog._write_stacks_and_leave", left.append)
    watchdog = Watchdog(0.2)
    watchdog.rewind()
    watchdog.suspend()
    time.sleep(0.6)
    assert left == []
    watchdog.rewind()
    time.sleep(0.6)
    watchdog.suspend()
    assert set(left) == {0.2}
