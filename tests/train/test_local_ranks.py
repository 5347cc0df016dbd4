"""`brickyard launch local`: ranks that are started, watched and ended together, whatever happens to one of them."""

import os
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train.callbacks.metrics_file import iterate_rows

from metric_rows import rows
from processes import Killer, brickyard, finish, start

OPTIONS = ("max_duration=40ba", "save_interval=5ba", "eval_interval=20ba", "wandb.mode=disabled")


def hurry() -> None:
    """The others get less time to end by themselves, and nothing is waited for before a restart."""
    import launch.local

    launch.local.GRACE, launch.local.RESTART_WAIT = 1.0, 0


def hang_in_save() -> None:
    """Rank 1 stops in the save of step 30, which rank 0 then waits for."""
    hurry()
    Killer(30, "write_tensors", signal.SIGSTOP, rank="1")()


def children(parent: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(path.parent.name)
        except OSError:  # it has ended
            continue


def rank_of(launcher: int, number: int) -> int:
    """The process that writes this rank's log."""
    output = {pid: Path(f"/proc/{pid}/fd/1").readlink().name for pid in children(launcher)}
    return next(pid for pid, name in output.items() if name == f"rank{number}.log")


def wait_for_step(run: Path, step: int, launcher: BaseProcess) -> bool:
    """False if the launcher ends before."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and launcher.is_alive():
        if (run / "metrics.jsonl").exists() and any(
            row["batch"] == step for row in iterate_rows(run / "metrics.jsonl")
        ):
            return True
        time.sleep(0.01)
    assert not launcher.is_alive(), "the run never came to the step"
    return False


def command(workshop: SimpleNamespace, name: str, *more: str) -> list[str]:
    return ["launch", "local", "-n", "2", str(workshop.recipe), f"run_name={name}", *OPTIONS, *more]


def test_whatever_happens_to_a_rank_the_run_goes_on(workshop: SimpleNamespace) -> None:
    """A rank killed, the launcher asked to end, the launcher killed, a rank hung: the steps are those of one run."""
    run, log = workshop.root / "runs" / "spoilt", workshop.root / "spoilt.log"

    def begin(*more: str) -> tuple[list[BaseProcess], int]:
        log.unlink(missing_ok=True)
        launcher = start(command(workshop, "spoilt", *more), log, before=hurry)
        return launcher, launcher[0].pid or 0

    def spoil(step: int, victim: int | None, number: int, *more: str) -> int | None:
        """Start, send signal `number` to a rank (None: the launcher) at this step, and return the exit code."""
        launcher, pid = begin(*more)
        assert wait_for_step(run, step, launcher[0]), log.read_text()
        ranks = list(children(pid))
        os.kill(pid if victim is None else rank_of(pid, victim), number)
        code = finish(launcher)[0]
        wait_until_gone(ranks)
        return code

    launcher, pid = begin("--restarts", "1")
    assert wait_for_step(run, 6, launcher[0]), log.read_text()
    while not (run / "checkpoints" / "ba00000005").exists():
        assert launcher[0].is_alive(), log.read_text()
        time.sleep(0.01)
    os.kill(rank_of(pid, 1), signal.SIGKILL)
    assert wait_for_step(run, 12, launcher[0]), log.read_text()  # by itself
    os.kill(pid, signal.SIGTERM)
    assert finish(launcher)[0] == 128 + signal.SIGTERM
    said = log.read_text()
    assert "rank 1 ended with SIGKILL" in said and re.search(r"restart 1 of 1 in 0 s, from step [1-9]", said)
    assert "which is saved" in said
    assert spoil(15, 1, signal.SIGTERM) == 128 + signal.SIGTERM  # which one rank has, and all heed
    assert "which is saved" in log.read_text()
    assert spoil(18, None, signal.SIGKILL) == -signal.SIGKILL
    assert spoil(27, 1, signal.SIGSTOP, "dist_timeout=12") == 1
    assert "another rank has not answered for dist_timeout seconds" in log.read_text()
    assert "the same command goes on from the newest checkpoint" in log.read_text()
    assert "Traceback (most recent call last)" in (run / "logs" / "rank0.log").read_text()  # where it waited
    log.unlink()
    assert brickyard([*command(workshop, "spoilt"), "dist_timeout=12"], log, before=hang_in_save) == [1]
    assert "nothing has happened for 14.4 seconds" in log.read_text()  # a save may wait for long, a run in it may not
    assert brickyard(command(workshop, "spoilt"), log) == [0]
    assert brickyard(command(workshop, "whole"), workshop.root / "whole.log") == [0]
    assert rows(run) == rows(workshop.root / "runs" / "whole")
    assert "done: 40 steps" in log.read_text()


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a rank is left behind"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["-n", "0"], "-n: expected 1 or more, found 0"),
        (["-n", "3"], "expected a multiple of the number of ranks (3), found 8"),
        (["dist_timeout=0"], "dist_timeout=0: expected a number of seconds above 0"),
    ],
)
def test_mistakes_are_said_before_anything_starts(
    workshop: SimpleNamespace, more: list[str], said: str, capfd: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from launch.cli import main

    told = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    for name in ("RANK", *told):
        monkeypatch.setenv(name, "0" if name == "RANK" else "1")  # and so restored
    assert main([*command(workshop, "mistaken"), *more]) == 2
    assert said in capfd.readouterr().err
    assert not (workshop.root / "runs" / "mistaken").exists()
