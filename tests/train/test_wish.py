"""A scheduler's signal comes to a rank twice, from it and from the launcher, and means one thing."""

import pytest

from train.wish import TOGETHER, Wish


def test_signals_that_come_together_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("train.wish.time.monotonic", lambda: now[0])
    wish = Wish()
    heard = []
    for seconds in (0, 0.01, TOGETHER / 2, TOGETHER, TOGETHER / 10):
        now[0] += seconds
        heard.append(wish.is_new())
    assert heard == [True, False, False, True, False]
