"""Ctrl-C and SIGTERM (a scheduler that takes the machine back): save after the step in hand, then end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import torch
from composer import Callback, Event, Logger, State
from composer.utils import dist

from train.checkpoints.checkpointer import Checkpointer
from train.errors import Stopped
from train.wish import Wish

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(Callback):
    """Ends the run with a checkpoint once any rank is signalled; a second signal ends it at once, wherever it is.

    Python's own handler would wait with a rank that waits for others. A thread hears of a signal as it comes.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer
        self.signal = 0
        self._before: dict[int, Any] = {}
        self._ear: socket.socket | None = None

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.FIT_START:
            self.restore()
            self.listen()
            self._before = {number: signal.signal(number, self.note) for number in SIGNALS}
        elif event == Event.BATCH_CHECKPOINT and (number := self.agreed_signal(state)):
            self.checkpointer.save_unless_saved(state)
            raise Stopped(number, state.timestamp.batch.value)

    def close(self, state: State, logger: Logger) -> None:
        self.restore()

    def note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number

    def listen(self) -> None:
        heard, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        signal.set_wakeup_fd(self._ear.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=leave_at_the_second, args=(heard,), name="signals", daemon=True).start()

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._ear:
            signal.set_wakeup_fd(-1)
            self._ear.close()
            self._ear = None

    def agreed_signal(self, state: State) -> int:
        """The signal that any rank has had, or 0: every rank must stop after the same step."""
        received = state.device.tensor_to_device(torch.tensor(self.signal))
        dist.all_reduce(received, reduce_operation="MAX")
        return int(received)


def leave_at_the_second(heard: socket.socket) -> None:
    """Reads the numbers of signals until nobody can send any."""
    asked, wish = 0, Wish()
    with heard:
        while number := heard.recv(1):
            asked += number[0] in SIGNALS and wish.is_new()
            if asked == 2:
                os._exit(128 + number[0])


def leave_to_parent(worker: int) -> None:
    """Dataloader workers sit the signals out: terminals and launchers send them to the whole process group, and the
    step in hand still needs its data. The parent ends its workers, and they end themselves when it is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_workers() -> None:
    """Python ends its children by SIGTERM when it exits, and waits for them; these sit it out. One that is still there
    belongs to a loader that an error has left open."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise that a worker was killed
    for worker in multiprocessing.active_children():
        worker.kill()
