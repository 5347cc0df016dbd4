"""Work in a thread beside other work."""

from threading import Event

import pytest

from data.prepare.beside import beside


def test_both_are_done_at_once():
    here, there = Event(), Event()

    def work():
        there.set()
        assert here.wait(10)
        return "done"

    with beside(work) as doing:
        assert there.wait(10)
        here.set()
    assert doing.result() == "done"


def test_what_the_work_raises_is_raised():
    finished = Event()
    with pytest.raises(ValueError, match="no"), beside(lambda: int("no")):
        finished.set()
    assert finished.is_set()


def test_a_body_that_fails_does_not_wait():
    release, ended = Event(), Event()

    def work():
        release.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt), beside(work):
        raise KeyboardInterrupt
    assert not ended.is_set()
    release.set()
    assert ended.wait(10)
