"""`brickyard launch check`: are this machine, and the others of a run, fit for it? Every launcher's first question.

Started on each machine of a run at once, as `launch local` will be.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.errors import DataError
from data.words import byte_count
from launch.checks import device_count, disk_problems, existing, gpu_problems
from launch.cluster import MISTAKE
from launch.meeting import meet
from launch.node import Node, gpus_or_one, tell
from launch.restarts import wait_of_restart
from model.errors import ModelError
from train.errors import RecipeError
from train.inputs import read_run
from train.run_directory import RunDirectory


def check_command(
    path: Path,
    overrides: Sequence[str],
    count: int | None,
    node: Node,
    gpus: int | None = None,
    restart: int = 0,
    restart_wait: int = 0,
) -> int:
    """Print what is wrong, a sentence a line. Returns the exit code: 0 nothing, 2 something.

    Args:
        count: ranks of this machine; None: one for each GPU, or else one.
        gpus: that this machine should have; None: as many as it has.
        restart: of a job, that comes to this; 0: it is its start. Before one, it is waited (`wait_of_restart`).
        restart_wait: seconds, before the first restart.

    Raises:
        RecipeError: the machine can't be one of these, or is to have no ranks.
    """
    count = gpus_or_one() if count is None else count
    if count < 1:
        raise RecipeError(f"-n: expected 1 or more, found {count}")
    os.environ.update(tell(node, count))
    problems = list(gpu_problems(count, gpus))
    folder = Path.cwd()
    try:
        recipe, _ = read_run(path, overrides, count * node.count, here=True)
        run = RunDirectory.of(recipe)
        if restart:
            pause(restart, wait_of_restart(run, restart_wait))
        folder = existing(run.path)
        problems += disk_problems(recipe, run)
    except (RecipeError, DataError, ModelError) as error:
        problems.append(str(error))
    sys.stdout.flush()
    problems += meet(node, count, folder)  # in any case: the others wait there
    for problem in problems:
        print(f"check: {problem}", flush=True)
    if not problems:
        free = byte_count(shutil.disk_usage(folder).free)
        print(f"fit: {socket.gethostname()}: ranks: {count}, GPUs: {device_count()}, free at {folder}: {free}")
    return MISTAKE if problems else 0


def pause(restart: int, wait: int) -> None:
    print(f"check: restart {restart} goes on in {wait} s", flush=True)
    time.sleep(wait)
