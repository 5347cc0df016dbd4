"""Two Spark jobs at once: cores that one leaves idle, at its beginning and its end, have the other's tasks."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Does `work` in a thread while the body runs, and waits for it; its exception is raised, or its result given.

    If the body fails, nobody waits: what `work` asks of Spark ends with the session.
    """
    pool = ThreadPoolExecutor(1)
    doing = pool.submit(work)
    try:
        yield doing
    except BaseException:
        pool.shutdown(wait=False)
        raise
    doing.result()
    pool.shutdown()
