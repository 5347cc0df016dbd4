"""`brickyard launch status`, `logs` and `stop`: a run by its name, whichever launcher has started it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data.words import duration, short
from launch.stopping import HEEDED_WITHIN
from train.checkpoints.names import newest_checkpoint
from train.errors import RecipeError
from train.history import read_history
from train.run_directory import RunDirectory

LOOK = 0.2  # seconds between looks
FORGOTTEN = "Invalid job id"  # what squeue says of a job that was over long ago
LAST = 2**22  # bytes at the end of metrics.jsonl that hold its last row


@dataclass(frozen=True)
class Launched:
    """The newest launch of a run that a cluster knows, and what its own commands say of it."""

    what: str  # such as `SLURM job 17`
    ask: list[str]
    end: list[str]

    @classmethod
    def of(cls, run: RunDirectory) -> Launched | None:
        """None: hosts or this machine were asked, by `launch ssh` or `launch local`."""
        folder = max(run.path.glob("launches/[0-9]*"), default=None)
        if folder is None or not (folder / "job").exists():
            return None
        job = (folder / "job").read_text()
        if (folder / "job.sh").exists():
            ask = ["squeue", "--noheader", f"--jobs={job}", "--format=%T (%r)"]
            return cls(f"SLURM job {job}", ask, ["scancel", job])
        namespace = yaml.safe_load((folder / "job.yaml").read_text())["metadata"].get("namespace")
        where = [] if namespace is None else ["--namespace", namespace]
        ask = ["kubectl", "get", "jobset", job, *where, "--ignore-not-found", "--output=jsonpath={.status}"]
        return cls(f"JobSet {job}", ask, ["kubectl", "delete", "jobset", job, *where, "--wait=false"])

    def state(self) -> str:
        """What the cluster says; empty where it does not know it any more.

        Raises:
            RecipeError: it can't be asked.
        """
        tool = self.ask[0]
        if shutil.which(tool) is None:
            raise RecipeError(f"{self.what} can't be asked for: {tool} is not here")
        done = subprocess.run(self.ask, capture_output=True, text=True)
        if done.returncode and FORGOTTEN not in done.stderr:
            raise RecipeError(f"{self.what} can't be asked for: {tool}: {' '.join(done.stderr.split())}")
        return done.stdout.strip()

    def goes_on(self) -> bool:
        """Whether the cluster has anything to end: a JobSet stays there when it is over.

        Raises:
            RecipeError: it can't be asked, and must be: a JobSet makes pods anew that end by themselves. A SLURM job
                ends with its ranks.
        """
        try:
            return bool(state := self.state()) and '"terminalState"' not in state
        except RecipeError:
            if self.ask[0] == "kubectl":
                raise
            return False


def find_run(name: str, root: Path) -> RunDirectory:
    """A run by its name under `root`, or by its folder.

    Raises:
        RecipeError: there is none.
    """
    for path in (root / name, Path(name)):
        if (path / "launches").is_dir() or (path / "recipe.yaml").exists() or (path / "logs").is_dir():
            return RunDirectory(path)
    raise RecipeError(f"no such run: {root / name}; give its name under --run-root, or its folder")


def status_command(name: str, root: Path) -> int:
    run = find_run(name, root)
    if launched := Launched.of(run):
        print(asked(launched))
    if row := last_row(run):
        ago = duration(max(0.0, time.time() - run.metrics.stat().st_mtime))
        loss = "" if row.get("loss/cross_entropy") is None else f", loss {row['loss/cross_entropy']:.3f}"
        print(f"{run.path}: step {row['batch']:,}, {short(row['tokens'])} tokens{loss}, {ago} ago")
    else:
        print(f"{run.path}: no step yet")
    print(state_of(run))
    checkpoint = newest_checkpoint(run.checkpoints)
    print(f"newest checkpoint: {checkpoint or 'none'}")
    return 0


def asked(launched: Launched) -> str:
    try:
        return f"{launched.what}: {launched.state() or 'is not known to the cluster any more'}"
    except RecipeError as unknown:
        return str(unknown)


def state_of(run: RunDirectory) -> str:
    """What its folder tells, whoever has launched it."""
    if run.is_taken():
        return "a process is training it"
    if is_finished(run):
        return f"finished: {run.steps_done():,} steps are done"
    return "no process that is seen from here is training it; the same command goes on with it"


def is_finished(run: RunDirectory) -> bool:
    """Whether the samples that it was last planned for are done, and nobody trains it for more. Steps do not tell: the
    global batch may have changed."""
    if run.is_taken() or not run.plan.exists() or (history := read_history(run)) is None:
        return False
    return history.samples >= json.loads(run.plan.read_text())["samples"]


def last_row(run: RunDirectory) -> dict[str, Any]:
    """Of the last step or evaluation in metrics.jsonl; empty without one."""
    if not run.metrics.exists():
        return {}
    with run.metrics.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST))
        lines = file.readlines()[-2:]
    whole = [line for line in lines if line.endswith(b"\n")]
    return json.loads(whole[-1]) if whole else {}


def logs_command(name: str, root: Path, rank: int, lines: int, follow: bool) -> int:
    """Print the end of a rank's log, and what is added to it."""
    run = find_run(name, root)
    log = run.logs / f"rank{rank}.log"
    if not log.exists():
        there = ", ".join(sorted(path.name for path in run.logs.glob("*.log")))
        raise RecipeError(f"{log}: no such log{f' (there: {there})' if there else ''}")
    with log.open(errors="replace") as file:
        print("".join(deque(file, maxlen=lines)), end="", flush=True)
        while follow:
            print(file.read(), end="", flush=True)
            time.sleep(LOOK)
    return 0


def stop_command(name: str, root: Path) -> int:
    """Have a run saved and ended. Returns the exit code."""
    run = find_run(name, root)
    launched = Launched.of(run)
    if launched is not None and launched.goes_on():
        done = subprocess.run(launched.end, capture_output=True, text=True)
        if done.returncode:
            raise RecipeError(f"{launched.end[0]} refuses: {' '.join(done.stderr.split())}")
        print(f"stop: {launched.what}: every rank saves and ends")
        return 0
    if is_finished(run):
        raise RecipeError(f"{run.path}: {state_of(run)}; there is nothing to stop")
    ask_its_launcher(run)
    print(f"stop: {run.path}: every rank saves after the step in hand, and ends")
    return 0


def ask_its_launcher(run: RunDirectory) -> None:
    """Raises RecipeError where there is none."""
    try:
        run.stop.touch()
        deadline = time.monotonic() + HEEDED_WITHIN
        while run.stop.exists():
            if time.monotonic() > deadline:
                raise RecipeError(f"{run.path}: no launcher has heeded it in {HEEDED_WITHIN:.0f} s; is the run going?")
            time.sleep(LOOK)
    finally:
        run.stop.unlink(missing_ok=True)
