"""`brickyard launch WHERE`: where a recipe is trained on many ranks, and what is asked of a run that was launched."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launch.arguments import add_command, at_least_none, at_least_one

if TYPE_CHECKING:
    from train.reader import RecipeSource

CHECKS = """\
Say whether this machine, and the others of a run, are fit to train a recipe: recipe and dataset, GPUs and their
health, room for checkpoints; ranks that meet and sum a tensor by gloo or NCCL; clocks, and storage that all share.

  brickyard launch check RECIPE                                                this machine alone
  brickyard launch check -n 8 --nodes 2 --node-rank R --master HOST:PORT RECIPE   on each of two, at once
"""

SSH = """\
Train on hosts that ssh reaches without a password, as the cluster's file lists them. They are checked first; rank 0's
log is shown; Ctrl-C lets every rank save; after a failure the run goes on from its newest checkpoint by itself. This
command has to stay (tmux, nohup): when it is gone, ranks save and end.
"""


def add_launch(commands: argparse._SubParsersAction) -> None:
    launch = commands.add_parser(
        "launch",
        help="train on many ranks",
        description="Train a recipe on many ranks, here or on a cluster; check machines; look after runs.",
    )
    places = launch.add_subparsers(dest="place", required=True, metavar="WHERE")
    add_local(places)
    add_check(places)
    ssh = add_cluster(places, "ssh", "train on hosts that ssh reaches", "the commands that would be run")
    ssh.description = SSH
    ssh.set_defaults(run=run_launch_ssh)
    slurm = add_cluster(places, "slurm", "train on the nodes of a SLURM cluster", "the script that would be submitted")
    slurm.set_defaults(run=run_launch_slurm)
    kubernetes = add_cluster(
        places, "kubernetes", "train on pods of a Kubernetes cluster", "the manifest that would be applied"
    )
    kubernetes.set_defaults(run=run_launch_kubernetes)
    add_control(places)


def add_local(places: argparse._SubParsersAction) -> None:
    local = add_command(places, "local", "train on several ranks of this machine", "yamls/demo/pretrain.yaml")
    add_node(local)
    local.add_argument(
        "--restarts",
        metavar="N",
        type=at_least_none,
        default=0,
        help="go on by itself after failures, at most N with no checkpoint between, after 10 s, 20 s, 40 s ... "
        "(default: %(default)s)",
    )
    local.set_defaults(run=run_launch_local)


def add_check(places: argparse._SubParsersAction) -> None:
    check = add_command(places, "check", "say whether machines are fit to train a recipe", "yamls/demo/pretrain.yaml")
    check.description = CHECKS
    add_node(check)
    check.add_argument("--gpus", metavar="N", type=int, help="that each machine should have (default: those it has)")
    check.add_argument(
        "--patience",
        metavar="SECONDS",
        type=float,
        default=90.0,
        help="in which the other machines must come (default: %(default)g)",
    )
    check.add_argument(
        "--restart",
        metavar="N",
        type=at_least_none,
        default=0,
        help="which restart of a job comes to this: before any, wait (default: its start, %(default)s)",
    )
    check.add_argument(
        "--restart-wait",
        metavar="SECONDS",
        type=at_least_none,
        default=30,
        help="before the first one, twice as long after each start without a checkpoint (default: %(default)s)",
    )
    check.set_defaults(run=run_launch_check)


def add_control(places: argparse._SubParsersAction) -> None:
    """What is asked of a run that was launched, by its name."""
    status = add_run(places, "status", "say how far a run is, and what its cluster says of it")
    status.set_defaults(run=run_launch_status)
    logs = add_run(places, "logs", "print the end of a rank's log")
    logs.add_argument("-r", "--rank", metavar="R", type=int, default=0, help="whose (default: %(default)s)")
    logs.add_argument(
        "-n", "--lines", metavar="N", type=at_least_one, default=50, help="how many (default: %(default)s)"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added to it")
    logs.set_defaults(run=run_launch_logs)
    stop = add_run(places, "stop", "have every rank save after the step in hand, and end")
    stop.set_defaults(run=run_launch_stop)


def add_run(places: argparse._SubParsersAction, name: str, summary: str) -> argparse.ArgumentParser:
    place = places.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    place.add_argument("run_name", metavar="RUN", help="its name, such as demo, or its folder")
    place.add_argument("--run-root", metavar="DIR", type=Path, default=Path("runs"), help="default: %(default)s")
    return place


def add_node(command: argparse.ArgumentParser) -> None:
    """Which of a run's machines this is."""
    command.add_argument("-n", dest="ranks", metavar="N", type=int, help="ranks (default: a rank for each GPU, or one)")
    command.add_argument("--nodes", metavar="N", type=at_least_one, default=1, help="machines on which this is started")
    command.add_argument("--node-rank", metavar="R", type=int, default=0, help="which of them this is, from 0 on")
    command.add_argument(
        "--master", metavar="HOST:PORT", help="node 0, and a free port of it, where ranks find each other"
    )


def add_cluster(places: argparse._SubParsersAction, name: str, summary: str, printed: str) -> argparse.ArgumentParser:
    cluster = f"yamls/clusters/{name}.yaml"
    place = add_command(places, name, summary, "yamls/demo/pretrain.yaml", f" --cluster {cluster}")
    place.add_argument("--cluster", metavar="FILE", type=Path, required=True, help=f"a YAML file, such as {cluster}")
    place.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the cluster's file, such as nodes=4; may be given again",
    )
    place.add_argument("--dry-run", action="store_true", help=f"print {printed}")
    return place


def cluster_of(options: argparse.Namespace) -> RecipeSource:
    """The cluster's file, and what was set of it."""
    from train.reader import RecipeSource

    return RecipeSource(options.cluster, tuple(options.set))


# As in launch/cli.py, each imports what it needs when it runs.


def run_launch_local(options: argparse.Namespace) -> int:
    from launch.local import launch_local
    from launch.node import Node

    node = Node(options.node_rank, options.nodes, options.master)
    return launch_local(options.recipe, options.overrides, options.ranks, node, options.restarts)


def run_launch_check(options: argparse.Namespace) -> int:
    from launch.check import check_command
    from launch.node import Node

    node = Node(options.node_rank, options.nodes, options.master, options.patience)
    return check_command(
        options.recipe,
        options.overrides,
        options.ranks,
        node,
        options.gpus,
        options.restart,
        options.restart_wait,
    )


def run_launch_status(options: argparse.Namespace) -> int:
    from launch.control import status_command

    return status_command(options.run_name, options.run_root)


def run_launch_logs(options: argparse.Namespace) -> int:
    from launch.control import logs_command

    return logs_command(options.run_name, options.run_root, options.rank, options.lines, options.follow)


def run_launch_stop(options: argparse.Namespace) -> int:
    from launch.control import stop_command

    return stop_command(options.run_name, options.run_root)


def run_launch_ssh(options: argparse.Namespace) -> int:
    from launch.ssh.launch import launch_ssh

    return launch_ssh(options.recipe, options.overrides, cluster_of(options), options.dry_run)


def run_launch_slurm(options: argparse.Namespace) -> int:
    from launch.slurm.submit import launch_slurm

    return launch_slurm(options.recipe, options.overrides, cluster_of(options), options.dry_run)


def run_launch_kubernetes(options: argparse.Namespace) -> int:
    from launch.kubernetes.submit import launch_kubernetes

    return launch_kubernetes(options.recipe, options.overrides, cluster_of(options), options.dry_run)
