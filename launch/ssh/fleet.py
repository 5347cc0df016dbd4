"""The hosts of a launch, and a command that runs on all of them at once."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from launch.ssh.host import READY, Order
from train.wish import Wish

LOOK = 0.2  # seconds between looks
GRACE = 30.0  # seconds that the others have to end by themselves once a host has failed
AGAIN = 3.0  # seconds later they are told a second time, which ends ranks wherever they are
GIVEN_UP = 30.0  # and so many later nobody waits for them; their far ends see to the rest
READY_WITHIN = 60.0  # seconds for a host that answers, beside what it waits for an earlier launch to end
STOPPED = (130, 143)  # exit codes: saved at a signal
LOST = 255  # ssh's own exit code
TAIL = 20  # lines of a host that are remembered

Lines = queue.SimpleQueue[tuple["Connection", str | int]]


class Unready(Exception):
    """No host has begun, because of these: each with a sentence."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))


class Connection:
    """ssh to a host; `code` is None while it stands, and then the exit code of what ran there, or LOST."""

    def __init__(self, host: str, command: Sequence[str], lines: Lines) -> None:
        self.host = host
        self.ready = False
        self.code: int | None = None
        self.said: deque[str] = deque(maxlen=TAIL)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the ranks, who save then; ssh would end
        )
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: Lines) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.put((self, line.decode(errors="replace").rstrip("\r\n")))
        lines.put((self, self.process.wait()))

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError, ValueError):  # it has ended, as its exit code will say
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def close(self) -> None:
        """What runs there is asked to save and end; the connection stands until it has."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.close()

    def give_up(self) -> None:
        self.process.kill()


class Fleet:
    """Connections to hosts, each made by a command. All that hosts say goes to `log`, with their names.

    Args:
        commands: by the name of each host, in the order of their ranks.
        script: that each command finds on its stdin, before anything else.
        lost_after: seconds of silence after which hosts take the launcher for gone.
        save_within: seconds that a host may wait for what an earlier launch has left.
    """

    def __init__(
        self, commands: dict[str, list[str]], script: str, log: Path, lost_after: float, save_within: float
    ) -> None:
        self.commands = commands
        self.script = script
        self.log = log
        self.beat = lost_after / 6
        self.ready_within = READY_WITHIN + save_within
        self.signals: list[int] = []  # that were handed on
        self.stopped = False  # by what hosts have heard themselves, such as `brickyard launch stop`

    def check(self, orders: Sequence[Order], within: float) -> None:
        """Run commands that find out whether hosts are fit, and say why not on the last lines.

        Raises:
            Unready: one is not, can't be reached, or has not found out within this many seconds.
        """
        with self.log.open("a") as log:
            round_ = Round(self.commands, log, self.beat)
            try:
                self._begin(round_, orders)
                round_.follow(round_.ended, within)
                if unfit := [each for each in round_.connections if each.code != 0]:
                    raise Unready([sentence for each in unfit for sentence in findings(each)])
            finally:
                round_.close()

    def run(self, orders: Sequence[Order]) -> list[int]:
        """Run commands until all have ended, and return their exit codes; signals that come are handed on.

        Raises:
            Unready: a host can't be reached.
        """
        with self.log.open("a") as log:
            round_ = Round(self.commands, log, self.beat, show=True)
            try:
                self._begin(round_, orders)
                with self._handing_on(round_):
                    round_.follow(round_.over)
                self.stopped = round_.stopped
                return [LOST if each.code is None else each.code for each in round_.connections]
            finally:
                round_.close()

    def _begin(self, round_: Round, orders: Sequence[Order]) -> None:
        round_.tell(self.script)
        round_.follow(round_.answered, self.ready_within)
        if unready := [each for each in round_.connections if not each.ready or each.code is not None]:
            raise Unready([why_unready(each) for each in unready])
        for connection, order in zip(round_.connections, orders, strict=True):
            connection.tell(json.dumps(order))

    @contextmanager
    def _handing_on(self, round_: Round) -> Iterator[None]:
        """A signal to the launcher is one to every rank: they save and end, or at the second one, end."""
        wish = Wish()

        def note(number: int, frame: object) -> None:
            if wish.is_new():
                self.signals.append(number)
                round_.handed.append(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Round:
    """One command on each host, from the first word to the last."""

    def __init__(self, commands: dict[str, list[str]], log: TextIO, beat: float, show: bool = False) -> None:
        self.lines: Lines = queue.SimpleQueue()
        self.log = log
        self.closed = threading.Event()
        self.show = show  # all that hosts say on the console, not only what comes from the far end itself
        self.handed: list[int] = []  # signals to be handed on
        self.ending: list[tuple[float, int | None]] | None = None  # when, and which; None: wait no longer
        self.pressed = False  # hosts have been told to end since
        self.stopped = False  # one had stopped before
        self.connections = [Connection(host, command, self.lines) for host, command in commands.items()]
        # A thread, as a terminal that takes no more lines would hold up everything else.
        threading.Thread(target=self._beat, args=(beat,), daemon=True).start()

    def _beat(self, seconds: float) -> None:
        """Let hosts hear that this is there."""
        while not self.closed.wait(seconds):
            self.tell("")

    def answered(self) -> bool:
        return all(each.ready or each.code is not None for each in self.connections)

    def ended(self) -> bool:
        return all(each.code is not None for each in self.connections)

    def over(self) -> bool:
        """As `ended`; and once a host has failed, the others are made to end. They may fail because one was stopped
        while they waited for its ranks."""
        if not self.pressed:
            self.stopped = any(each.code in STOPPED for each in self.connections)
        if self.ending is None and any(each.code not in (None, 0, *STOPPED) for each in self.connections):
            first = time.monotonic() + GRACE
            self.ending = [
                (first, signal.SIGTERM),
                (first + AGAIN, signal.SIGTERM),
                (first + AGAIN + GIVEN_UP, None),
            ]
        while self.ending and time.monotonic() > self.ending[0][0]:
            number, self.pressed = self.ending.pop(0)[1], True
            if number is None:
                return True
            self.handed.append(number)
        return self.ended()

    def follow(self, done: Callable[[], bool], within: float | None = None) -> None:
        """Listen to hosts, and hand signals on, until `done` or for so many seconds."""
        deadline = None if within is None else time.monotonic() + within
        while not done() and (deadline is None or time.monotonic() < deadline):
            while self.handed:
                self.tell(str(self.handed.pop(0)))
            self._listen()

    def _listen(self) -> None:
        with suppress(queue.Empty):
            connection, heard = self.lines.get(timeout=LOOK)
            if isinstance(heard, int):
                connection.code = heard
            elif not connection.ready and heard.endswith(READY):
                connection.ready = True
            else:
                connection.said.append(heard)
                self._pass_on(connection, heard)

    def _pass_on(self, connection: Connection, line: str) -> None:
        print(f"{connection.host}: {line}", file=self.log, flush=True)
        if self.show or line.startswith("launch: "):
            first = connection is self.connections[0]
            with suppress(OSError):  # a reader that has gone is no reason to stop training
                print(line if first else f"{connection.host}: {line}", file=sys.stdout, flush=True)

    def tell(self, line: str) -> None:
        for connection in self.connections:
            connection.tell(line)

    def close(self) -> None:
        self.closed.set()
        for connection in self.connections:
            connection.close()
            if self.ending == [] and connection.code is None:
                connection.give_up()


def why_unready(connection: Connection) -> str:
    host, last = connection.host, connection.said[-1] if connection.said else "it said nothing"
    if connection.code is None:
        return f"{host}: does not answer: {last}"
    if connection.code == LOST:
        return f"{host}: ssh can't reach it ({last}); `ssh {host} true` must work without a question"
    return f"{host}: {last}"


def findings(connection: Connection) -> list[str]:
    """What makes a host unfit, in the sentences of `launch check`."""
    if connection.code is None:
        return [f"{connection.host}: its checks have not ended; is its storage there?"]
    found = [line.removeprefix("check: ") for line in connection.said if line.startswith("check: ")]
    last = connection.said[-1] if connection.said else "it said nothing"
    return [f"{connection.host}: {sentence}" for sentence in found or [f"its checks failed: {last}"]]
