"""`brickyard train`: a recipe becomes a run, or a run goes on."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from train.checkpoints.remote import fetch_run, send_newest
from train.errors import Terminated
from train.history import continue_run, new_shards
from train.inputs import read_run
from train.run_directory import RunDirectory


def train_command(path: Path, overrides: Sequence[str]) -> int:
    """Train the recipe at `path`. Returns the exit code."""
    faulthandler.register(signal.SIGUSR1, file=2)  # where is it? each thread's stack, on stderr
    recipe, manifest = read_run(path, overrides, int(os.environ.get("WORLD_SIZE", "1")), here=True)
    run = RunDirectory.of(recipe)
    fetch_run(recipe, run, say)
    run.check_same_run(recipe, manifest)
    plan, history = continue_run(run, recipe, manifest)
    if history.samples >= recipe.end:
        if os.environ.get("RANK", "0") == "0":
            send_newest(recipe, run, say)
        say(f"{run.path} is finished: {run.steps_done():,} steps are done")
        return 0
    for change in [*run.changes(recipe), *new_shards(history)]:
        say(f"from token {history.samples * recipe.max_seq_len:,} on: {change}")
    run.make()
    signal.signal(signal.SIGTERM, Terminated.on_signal)
    say("loading torch and Composer")
    from train.run import train  # only now: what can be refused is refused before the ten seconds that Composer takes

    # The collector would go through the million objects of these imports amid a step, for a third of a second, while
    # the other ranks wait.
    gc.freeze()
    train(recipe, manifest, plan, history, run)
    return 0


def say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"train: {line}", flush=True)
