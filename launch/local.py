"""`brickyard launch local`: a recipe on N ranks of this machine, watched until all of them have ended.

On several nodes it runs on each of them, told which one it is; a scheduler, or whoever starts it there, joins them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from launch.checks import disk_problems, gpu_problems
from launch.node import Node, gpus_or_one, tell
from launch.parent import die_with
from launch.restarts import Restarts
from launch.say import say, show
from launch.stopping import forget_old_wish, told_to_stop
from train.checkpoints.remote import fetch_run
from train.errors import RecipeError, Terminated
from train.inputs import read_run
from train.run_directory import RunDirectory
from train.wish import Wish

GRACE = 20.0  # seconds that the others have to end by themselves once a rank has failed
LAST_WORDS = 2.0  # seconds to write down where they are, before they are killed
LOOK = 0.2  # seconds between looks
STOP_LOOK = 2.0  # and at whether the run is to stop
TAIL = 15  # lines of a failed rank's log that are shown
RESTART_WAIT = 10  # seconds before the first restart
MISTAKE, OURS = 2, 1
STOPPED = (130, 143)  # exit codes of ranks that have saved at a signal


@dataclass
class Rank:
    """A process and its log, from byte `begin` on; `code` is None while it runs, negative where a signal ended it."""

    number: int
    pid: int
    log: Path
    begin: int
    code: int | None = None

    def look(self) -> None:
        """Notice that it has ended."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.code = os.waitstatus_to_exitcode(status)

    def send(self, number: int) -> None:
        if self.code is None:
            os.kill(self.pid, number)


def launch_local(
    path: Path, overrides: Sequence[str], count: int | None, node: Node | None = None, restarts: int = 0
) -> int:
    """Train the recipe at `path` on `count` ranks of this machine (None: one for each GPU, or else one).

    `node` says which of several machines this is, if it is not the only one; `restarts`: after failures, at the most.

    Returns the exit code: 0 done, 130 or 143 stopped by a signal, 2 the user's mistake, 1 a rank failed.

    Ranks are forked once Composer is imported, so that N of them cost its ten seconds once.

    Raises:
        RecipeError: the recipe is wrong, or does not divide over the ranks.
        DataError: the dataset is not whole.
    """
    count = gpus_or_one() if count is None else count
    if count < 1:
        raise RecipeError(f"-n: expected 1 or more, found {count}")
    if restarts and node is not None and node.count > 1:
        raise RecipeError("--restarts: the ranks of other machines end as well; whoever starts these all must do it")
    os.environ.update(tell(node := node or Node(), count))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    recipe, manifest = read_run(path, overrides, count * node.count, here=True)
    run = RunDirectory.of(recipe)
    fetch_run(recipe, run, say)
    run.check_same_run(recipe, manifest)
    say(f"loading torch and Composer for {count} ranks; logs: {run.logs}")
    signal.signal(signal.SIGTERM, Terminated.on_signal)
    for problem in [*gpu_problems(count), *disk_problems(recipe, run)]:
        raise RecipeError(problem)
    run.make()
    import train.run  # noqa: F401  # for the ranks, which are forked from here

    run.logs.mkdir(exist_ok=True)
    forget_old_wish(run.stop)
    allowed = Restarts(run, restarts, RESTART_WAIT)
    while (code := attempt(path, overrides, run, node, count)) == OURS and restarts:
        if (end := allowed.after_failure()) is not None:
            return end
        os.environ.update(tell(node, count))  # another port: the last one may still be held
    return code


def attempt(path: Path, overrides: Sequence[str], run: RunDirectory, node: Node, count: int) -> int:
    """Start the ranks, and watch them until all have ended. Returns the exit code."""
    sys.stdout.flush()
    ranks = [start_rank(node.rank * count + local, local, path, overrides, run.logs) for local in range(count)]
    try:
        return Watch(ranks, run.stop).until_ended()
    finally:
        remove_leftovers()


def start_rank(number: int, local: int, path: Path, overrides: Sequence[str], logs: Path) -> Rank:
    """Fork a rank, the `local`-th of this machine, that writes to its log."""
    log = logs / f"rank{number}.log"
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    begin, parent = os.fstat(output).st_size, os.getpid()
    pid = os.fork()
    if pid:
        os.close(output)
        return Rank(number, pid, log, begin)
    die_with(parent)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(end, "w", buffering=1, closefd=False) for end in (1, 2))
    os.environ.update(RANK=str(number), LOCAL_RANK=str(local))
    renew_thread_pool()
    from launch.cli import main

    sys.exit(main(["train", str(path), *overrides]))  # as if it had been started by itself: nothing else is left undone


def renew_thread_pool() -> None:
    """In a forked process, while it has one thread. torch replaces the pool of the process before when next asked for
    it, without a lock: of the threads that begin the first backward pass together, some may find none, and abort."""
    import torch

    torch.set_num_threads(torch.get_num_threads())


def remove_leftovers() -> None:
    """What ranks that were killed have left in shared memory and in the temporary folder."""
    from data.mixture.leftovers import alone_on_this_machine, dead_blocks
    from train.temporary_folder import remove_dead_folders

    with alone_on_this_machine():
        remove_dead_folders()
        for block in dead_blocks():
            block.unlink(missing_ok=True)


class Watch:
    """Shows what rank 0 says (if it is one of these), hands signals on, and ends the others when a rank has failed."""

    def __init__(self, ranks: Sequence[Rank], stop: Path) -> None:
        self.ranks = ranks
        self.stop = stop
        self.next_look = 0.0  # at the file, which may lie far away
        self.signals: list[int] = []  # that were handed on
        self.deadline: float | None = None  # after which ranks are killed
        self.killed: list[Rank] = []  # by us
        self.wish = Wish()

    def until_ended(self) -> int:
        before = {number: signal.signal(number, self.hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        with self.ranks[0].log.open("rb") as said:
            said.seek(self.ranks[0].begin)
            try:
                while any(rank.code is None for rank in self.ranks):
                    time.sleep(LOOK)
                    self.look()
                    if self.ranks[0].number == 0:
                        with suppress(OSError):  # of storage that may come back
                            show(said.read().decode(errors="replace"))
                        self.heed_stop()
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        return self.exit_code()

    def look(self) -> None:
        """Notice ranks that have ended; once one has failed, the others get GRACE to end by themselves. One that has
        stopped has not failed: rank 0 may be busy for a while yet, with the last words to W&B."""
        for rank in self.ranks:
            if rank.code is None:
                rank.look()
        if self.deadline is None and any(rank.code not in (None, 0, *STOPPED) for rank in self.ranks):
            self.deadline = time.monotonic() + GRACE
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.end_others()

    def end_others(self) -> None:
        """A rank that waits for one that is gone may wait for ever: it writes down where it is, and is killed."""
        self.send(signal.SIGUSR1)  # each thread's stack, into its log
        time.sleep(LAST_WORDS)
        self.killed += [rank for rank in self.ranks if rank.code is None and rank not in self.killed]
        self.send(signal.SIGKILL)

    def heed_stop(self) -> None:
        """`brickyard launch stop` is a SIGTERM that comes by way of the run's folder."""
        if time.monotonic() > self.next_look:
            self.next_look = time.monotonic() + STOP_LOOK
            if told_to_stop(self.stop):
                self.hand_on(signal.SIGTERM, None)

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        """A signal to the launcher is one to every rank: they save and end, or at the second one, end."""
        if not self.wish.is_new():
            return
        self.signals.append(number)
        self.send(number)
        if len(self.signals) > 1:
            self.deadline = time.monotonic() + LAST_WORDS

    def send(self, number: int) -> None:
        for rank in self.ranks:
            rank.send(number)

    def exit_code(self) -> int:
        failed = [rank for rank in self.ranks if rank.code and rank not in self.killed]
        if len(self.signals) > 1 and any(rank.code for rank in self.ranks):
            say("ended at the second signal; the same command goes on from the newest checkpoint")
            return 128 + self.signals[0]
        if not failed:
            return OURS if self.killed else 0
        # One that was killed is the cause, then one that gives a reason; those that missed it fail at once, and may
        # even be seen first.
        cause = min(failed, key=lambda rank: (rank.code == OURS, rank.code))
        code = cause.code or OURS
        if code < MISTAKE or len({rank.code for rank in self.ranks}) > 1:
            self.explain(cause)
        return code if code >= MISTAKE else OURS  # a user's mistake, or stopped and saved: rank 0 has said it

    def explain(self, rank: Rank) -> None:
        assert rank.code is not None
        how = f"exit code {rank.code}" if rank.code > 0 else signal.Signals(-rank.code).name
        say(f"rank {rank.number} ended with {how}; the last lines of {rank.log}:")
        for line in rank.log.read_bytes()[rank.begin :].decode(errors="replace").splitlines()[-TAIL:]:
            show(f"  {line}\n", sys.stderr)
        if self.killed:
            names = ", ".join(str(other.number) for other in self.killed)
            say(f"killed {GRACE:.0f} s later, with their stacks in their logs: ranks {names}")
        say("the same command goes on from the newest checkpoint")
