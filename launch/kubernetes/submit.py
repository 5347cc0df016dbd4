"""`brickyard launch kubernetes`: a recipe becomes a JobSet on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from launch.cluster import check_here, give, read_launch
from launch.kubernetes.cluster import KubernetesCluster
from launch.kubernetes.manifest import manifest
from launch.snapshot import Snapshot
from train.reader import RecipeSource
from train.recipe import Recipe
from train.run_directory import write_whole


def launch_kubernetes(path: Path, overrides: Sequence[str], source: RecipeSource, dry_run: bool = False) -> int:
    """Give the recipe at `path` to the cluster that `source` describes. Returns the exit code.

    `dry_run`: print the manifest that would be applied, and do nothing.

    Raises:
        RecipeError: the recipe or the cluster is wrong, they do not divide, or Kubernetes refuses the job.
        DataError: the dataset is not whole.
    """
    cluster, recipe, run = read_launch(KubernetesCluster, source, path, overrides, dry_run)
    snapshot = Snapshot.next_of(run)
    check_seen_by_pods(source, cluster, snapshot, recipe)
    jobset = manifest(cluster, recipe.run_name, Path.cwd(), snapshot)
    text = yaml.safe_dump(jobset, sort_keys=False, width=120)
    if dry_run:
        print(text, end="")
        return 0
    check_here("kubectl", "it is and knows the cluster")
    snapshot.take(recipe)
    name = jobset["metadata"]["name"]
    with snapshot.dropped_at_failure():
        give(["kubectl", "apply", "--filename", "-"], text, snapshot.path / "job.yaml")
        write_whole(snapshot.path / "job", name)
    print(f"launch: JobSet {name}, run {run.path}, log: {run.path.resolve() / 'logs' / 'rank0.log'}")
    return 0


def check_seen_by_pods(source: RecipeSource, cluster: KubernetesCluster, snapshot: Snapshot, recipe: Recipe) -> None:
    """Raises RecipeError where the run's folder or the dataset is on none of the volumes."""
    needed = [snapshot.path] if recipe.dataset.remote else [snapshot.path, Path.cwd() / recipe.dataset.path]
    unseen = [path for path in needed if not any(path.is_relative_to(volume.path) for volume in cluster.volumes)]
    source.raise_first(("volumes", f"no pod will see {path}: expected a volume of that path") for path in unseen)
