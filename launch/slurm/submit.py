"""`brickyard launch slurm`: a recipe becomes a job on the nodes of a cluster."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import check_here, give, read_launch
from launch.slurm.cluster import SlurmCluster
from launch.slurm.script import Job, job_script
from launch.snapshot import Snapshot
from train.reader import RecipeSource
from train.run_directory import write_whole


def launch_slurm(path: Path, overrides: Sequence[str], source: RecipeSource, dry_run: bool = False) -> int:
    """Submit the recipe at `path` to the cluster that `source` describes. Returns the exit code.

    `dry_run`: print the script that would be submitted, and do nothing.

    Raises:
        RecipeError: the recipe or the cluster is wrong, they do not divide, or SLURM refuses the job.
        DataError: the dataset is not whole.
    """
    cluster, recipe, run = read_launch(SlurmCluster, source, path, overrides, dry_run)
    snapshot = Snapshot.next_of(run)
    logs = run.path.resolve() / "logs"
    script = job_script(
        cluster, Job(recipe.run_name, logs / "slurm-%j.log", Path.cwd(), snapshot, cluster.python or sys.executable)
    )
    if dry_run:
        print(script, end="")
        return 0
    check_here("sbatch", "SLURM's commands are, such as a login node")
    snapshot.take(recipe)
    logs.mkdir(exist_ok=True)
    file = snapshot.path / "job.sh"
    with snapshot.dropped_at_failure():
        job = give(["sbatch", "--parsable", str(file)], script, file).partition(";")[0]
        write_whole(snapshot.path / "job", job)
    print(f"launch: job {job}, run {run.path}, log: {logs / f'slurm-{job}.log'}")
    return 0
