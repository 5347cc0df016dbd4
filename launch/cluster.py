"""What every cluster's YAML under yamls/clusters/ says, and how a launch begins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from train.errors import RecipeError
from train.inputs import read_run
from train.plan.warnings import planned_warnings
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe
from train.run_directory import RunDirectory, write_whole
from train.schema import Problem

SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
MISTAKE, STOPPED = 2, 143  # exit codes of a node: what a restart does not change; saved at SIGTERM


@dataclass(kw_only=True)
class Cluster:
    """Nodes that are alike, and how to ask for them."""

    nodes: int
    ranks_per_node: int  # as many as a node has GPUs, where it has some
    gpus_per_node: int | None = None  # null: none are asked for
    cpus_per_rank: int | None = None  # null: those that the nodes are given with
    restarts: int = 3  # after failures; when the cluster takes nodes back, that is not counted
    restart_wait: int = 30  # seconds before the first restart, twice as many before each further one
    environment: dict[str, str] = field(default_factory=dict)  # of every rank, such as NCCL_DEBUG: WARN; no secrets

    place_of_secrets: ClassVar[str]

    def problems(self) -> Iterator[Problem]:
        yield from self.at_least(1, "nodes", "ranks_per_node", "gpus_per_node", "cpus_per_rank")
        yield from self.at_least(0, "restarts", "restart_wait")
        if self.gpus_per_node is not None and self.ranks_per_node > self.gpus_per_node:
            yield (
                "ranks_per_node",
                f"expected at most gpus_per_node ({self.gpus_per_node}), found {self.ranks_per_node}",
            )
        for name in self.environment:
            if not name.isidentifier():
                yield f"environment.{name}", "expected the name of a variable"
            elif SECRET.search(name):
                yield f"environment.{name}", f"may be a secret, and this file is copied: {self.place_of_secrets}"

    def at_least(self, least: int, *names: str) -> Iterator[Problem]:
        for name in names:
            if (number := getattr(self, name)) is not None and number < least:
                yield name, f"expected {least} or more, found {number}"


C = TypeVar("C", bound=Cluster)


def read_launch(
    schema: type[C], source: RecipeSource, path: Path, overrides: Sequence[str], dry_run: bool
) -> tuple[C, Recipe, RunDirectory]:
    """The cluster of `source`, the recipe at `path`, which divides over its ranks, and the run, which that recipe may
    begin or go on with. For a dry run no dataset need be there, if the recipe says how large it is planned to be.

    Raises:
        RecipeError: the recipe or the cluster is wrong, or they do not divide.
        DataError: the dataset is not whole.
    """
    cluster = read_recipe(schema, source)
    recipe, manifest = read_run(path, overrides, cluster.nodes * cluster.ranks_per_node, planned=dry_run)
    for sentence in planned_warnings(recipe, manifest):
        print(f"launch: warning: {sentence}", file=sys.stderr)
    run = RunDirectory.of(recipe)
    run.check_same_run(recipe, manifest)
    return cluster, recipe, run


def check_here(tool: str, hint: str) -> None:
    """Raises RecipeError where the cluster's own command is not installed."""
    if shutil.which(tool) is None:
        raise RecipeError(f"{tool} is not here: launch where {hint}")


def give(command: Sequence[str], text: str, file: Path) -> str:
    """Keep in `file` what the cluster is given, give it, and return the answer. The command inherits this environment.

    Raises:
        RecipeError: the cluster refuses it.
    """
    write_whole(file, text)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RecipeError(f"{command[0]} refuses {file}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
