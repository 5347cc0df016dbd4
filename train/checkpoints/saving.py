"""A save that goes on beside training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import torch
import torch.distributed as dist
from torch import Tensor

CopyTensors = Callable[[], Mapping[str, Tensor]]


class Saving:
    """A save that goes on in a thread: `copy`, then `write` with what gives its copies, or raises what it came to.

    Attributes:
        error: what it ended with, if that is one.
    """

    def __init__(self, step: int, copy: CopyTensors, write: Callable[[CopyTensors], object]) -> None:
        self.step = step
        self._copy = copy
        self._write = write
        self._copied = threading.Event()
        self.error: BaseException | None = None
        # A daemon: a process that ends by an error does not stay for others that will never answer.
        self._thread = threading.Thread(target=self._run, name=f"checkpoint of step {step}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        copies: Future[Mapping[str, Tensor]] = Future()
        try:
            copies.set_result(self._copy())
        except Exception as error:  # the other ranks must hear of it, which `write` sees to
            copies.set_exception(error)
        finally:
            self._copied.set()
        try:
            self._write(copies.result)
        except BaseException as error:
            self.error = error

    def wait_for_copy(self) -> None:
        """Returns when the tensors may change."""
        self._copied.wait()

    def wait(self, at_most: float) -> None:
        """Wait this many seconds for its end."""
        self._thread.join(at_most)

    def wait_together(
        self, group: dist.ProcessGroup | None, meanwhile: Callable[[], None] = lambda: None
    ) -> BaseException | None:
        """Wait until every rank's part is done, and return what this one's ended with. Called on every rank.

        A save may take long, a rank may not: they ask each other every second, so that one which is gone or hangs
        ends the others after the group's timeout, as it would in training.

        Args:
            group: on which nothing else is sent, gloo's.
            meanwhile: called every second.

        Raises:
            RuntimeError: gloo's, of a rank that is gone or does not answer.
        """
        going_on = torch.ones(())
        while going_on:
            self._thread.join(timeout=1.0)
            going_on.fill_(self._thread.is_alive())
            dist.all_reduce(going_on, dist.ReduceOp.MAX, group)
            meanwhile()
        return self.error
