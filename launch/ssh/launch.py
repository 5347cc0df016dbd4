"""`brickyard launch ssh`: a recipe on several hosts, watched from here until all have ended, and started again."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launch.cluster import MISTAKE, check_here, read_launch
from launch.restarts import Restarts
from launch.say import say
from launch.snapshot import Snapshot, remove_empty
from launch.ssh.cluster import SshCluster
from launch.ssh.commands import Job, check, connect, dry_run, order, script, train
from launch.ssh.fleet import LOST, STOPPED, Fleet, Unready
from launch.ssh.host import Order
from launch.stopping import forget_old_wish, told_to_stop
from train.errors import RecipeError, Terminated
from train.reader import RecipeSource
from train.run_directory import RunDirectory

TERMINATED = 143  # exit code: saved at SIGTERM, or as if at one
CHECK_WITHIN = 400.0  # seconds; launch/meeting.py takes 280 at the most


def launch_ssh(path: Path, overrides: Sequence[str], source: RecipeSource, dry: bool = False) -> int:
    """Train the recipe at `path` on the hosts that `source` names. Returns the exit code, as `launch_local`.

    `dry`: print the commands, and do nothing.

    Raises:
        RecipeError: the recipe or the cluster is wrong, they do not divide, or a host is not fit for the run.
        DataError: the dataset is not whole.
    """
    cluster, recipe, run = read_launch(SshCluster, source, path, overrides, dry)
    snapshot = Snapshot.next_of(run)
    job = Job(run.path.resolve(), Path.cwd(), snapshot, cluster.python or sys.executable, source.path)
    if dry:
        print(dry_run(cluster, job), end="")
        return 0
    check_here("ssh", "OpenSSH's client is")
    signal.signal(signal.SIGTERM, Terminated.on_signal)
    with alone(run):
        forget_old_wish(run.stop)
        snapshot.take(recipe)
        return Launch(cluster, job, run).until_done()


class Launch:
    """Attempts to train, one after another."""

    def __init__(self, cluster: SshCluster, job: Job, run: RunDirectory) -> None:
        self.cluster = cluster
        self.job = job
        self.run = run
        self.hosts = cluster.hosts[: cluster.nodes]
        commands = {host: connect(cluster, job, host) for host in self.hosts}
        log = job.snapshot.path / "hosts.log"
        self.fleet = Fleet(commands, script(cluster, job), log, cluster.lost_after, cluster.save_within)

    def until_done(self) -> int:
        """The exit code of the last attempt.

        Raises RecipeError if hosts are not fit to begin.
        """
        with self.job.snapshot.dropped_at_failure():
            try:
                self.check()
            except Unready as reason:
                raise RecipeError(str(reason)) from None
        restarts = Restarts(self.run, self.cluster.restarts, self.cluster.restart_wait)
        while (code := self.attempt(again=restarts.failures > 0)) is None:
            if (end := restarts.after_failure()) is not None:
                return end
        return code

    def attempt(self, again: bool) -> int | None:
        """The exit code, or None where another attempt may do better."""
        try:
            if again:
                self.check()
            if told_to_stop(self.run.stop):
                say("stopped before training; the same command goes on from the newest checkpoint")
                return TERMINATED
            codes = self.fleet.run(self.orders(train))
        except Unready as reason:
            say(str(reason))
            return None
        if self.fleet.signals:
            return 128 + self.fleet.signals[0] if any(codes) else 0
        if MISTAKE in codes:
            return MISTAKE
        if self.fleet.stopped or not any(codes):
            return max(code for code in codes if code in (0, *STOPPED))
        ends = ("is lost" if code == LOST else f"ended with {code}" for code in codes)
        ended = ", ".join(map(" ".join, zip(self.hosts, ends, strict=True)))
        say(f"{ended}; {self.fleet.log} has all that hosts have said")
        return None

    def check(self) -> None:
        say(f"checking {', '.join(self.hosts)}")
        self.fleet.check(self.orders(check), CHECK_WITHIN)

    def orders(self, command: Callable[[SshCluster, Job, int], list[str]]) -> list[Order]:
        """A command for each host."""
        return [order(self.cluster, command(self.cluster, self.job, rank)) for rank in range(len(self.hosts))]


@contextmanager
def alone(run: RunDirectory) -> Iterator[None]:
    """Hold the run's launch until this process is gone.

    Raises:
        RecipeError: another launcher has it, or the folder can't be written to.
    """
    path = run.path / ".launching"
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise RecipeError(f"{run.path} can't be written: {error.strerror or error}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = f"{run.path}: {file.read()} is launching this run"
            raise RecipeError(f"{who}; stop it, or choose another run_name") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} of {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            if not (run.path / "launches").exists():  # nothing was launched, ever
                path.unlink()
                remove_empty(run.path)
