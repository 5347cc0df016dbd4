"""What runs on a host at the far end of an ssh connection: one command, for as long as the launcher is heard of.

The launcher writes lines to its stdin: what to run, signals to hand on, and empty ones, which say that it is there. A
connection that ends closes stdin; one that is cut may not, for hours, so silence counts as well. The ranks are then
asked to save, and after a while made to end: nothing stays behind, and no second launch meets the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, TypedDict

from launch.parent import die_with

READY = "launch: ready"
LOOK = 0.2  # seconds between looks
LAST_WORDS = 10.0  # seconds for the stacks of ranks that are made to end
PIECE = 4096  # bytes that a pipe which takes any takes at once
SHARED_MEMORY = Path("/dev/shm")  # one for each machine, unlike folders
FAILED = 1


class Order(TypedDict):
    """What is to be run, and what it finds in its environment beside what is there."""

    command: list[str]
    environment: dict[str, str]


def main(run: str, lost_after: float, save_within: float) -> int:
    """Says that it is ready, runs what it is told and returns its exit code (128 + N where signal N ended it).

    Args:
        run: a word for the run; two of its commands never run on one machine.
        lost_after: seconds of silence after which the launcher is gone.
        save_within: seconds from then on for the command to end by itself.
    """
    ear = Ear(lost_after)
    lock = alone(SHARED_MEMORY / f"brickyard-{os.getuid()}-{run}.ssh", save_within, ear)
    if lock is None:
        return FAILED
    print(READY, flush=True)
    while not ear.lines:
        ear.listen(LOOK)
        if ear.nobody:
            return FAILED
    order: Order = json.loads(ear.lines.pop(0))
    command = subprocess.Popen(
        order["command"],
        env={**os.environ, **order["environment"]},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock],  # which ranks inherit: it is free once the last of them is gone
        preexec_fn=partial(die_with, os.getpid()),
    )
    assert command.stdout is not None
    voice = threading.Thread(target=pass_on, args=(command.stdout, lost_after), daemon=True)
    voice.start()
    watch(command, ear, save_within)
    voice.join(LAST_WORDS)
    return command.returncode if command.returncode >= 0 else 128 - command.returncode


class Ear:
    """Hears the launcher, on stdin."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.closed = False
        self.last = time.monotonic()
        self.lines: list[bytes] = []  # not yet heeded
        self.rest = b""

    @property
    def nobody(self) -> bool:
        return self.closed or time.monotonic() - self.last > self.patience

    def listen(self, seconds: float) -> None:
        """Wait for a word, this long at the most."""
        if self.closed:
            time.sleep(seconds)
        elif select.select([0], [], [], seconds)[0]:
            heard = os.read(0, 2**16)
            self.closed, self.last = not heard, time.monotonic()
            *lines, self.rest = (self.rest + heard).split(b"\n")
            self.lines += filter(None, lines)


def watch(command: subprocess.Popen[bytes], ear: Ear, save_within: float) -> None:
    """Hand signals on until the command has ended, and see that it ends once the launcher is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, frame: command.send_signal(signal.SIGTERM))
    ending: list[tuple[float, int]] | None = None
    while command.poll() is None:
        while ear.lines:
            command.send_signal(int(ear.lines.pop(0)))
        ear.listen(LOOK)
        if ending is None and ear.nobody:
            ending = list(last_signals(save_within))
        while ending and time.monotonic() > ending[0][0]:
            command.send_signal(ending.pop(0)[1])


def last_signals(save_within: float) -> Iterator[tuple[float, int]]:
    """When, and which: at the second one, ranks end wherever they are."""
    now = time.monotonic()
    yield now, signal.SIGTERM
    yield now + save_within, signal.SIGTERM
    yield now + save_within + LAST_WORDS, signal.SIGKILL


def pass_on(said: IO[bytes], patience: float) -> None:
    """What the command says goes to the launcher, or nowhere while that takes nothing: it is kept waiting once."""
    taken = True
    while piece := os.read(said.fileno(), PIECE):
        with contextlib.suppress(OSError):  # the connection is closed
            taken = bool(select.select([], [1], [], patience if taken else 0)[1])
            if taken:
                os.write(1, piece)


def alone(path: Path, save_within: float, ear: Ear) -> int | None:
    """A lock that nothing else of this run holds on this machine. What an earlier launch has left is waited for, and at
    last killed. None: the launcher has gone meanwhile."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline, waiting = time.monotonic() + save_within + LAST_WORDS, False
    while not ear.nobody:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        if not waiting:
            waiting = True
            print("launch: waiting for what an earlier launch of this run has left here", flush=True)
        if time.monotonic() > deadline:
            for holder in holders(path):
                os.kill(holder, signal.SIGKILL)
        ear.listen(LOOK)
    return None


def holders(path: Path) -> Iterator[int]:
    """Other processes that have this file open."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            opened = any(end.readlink() == path for end in (process / "fd").iterdir())
            if opened and int(process.name) != os.getpid():
                yield int(process.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
