"""What is started on each host, and what it is told."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import MISTAKE
from launch.snapshot import Snapshot
from launch.ssh.cluster import SshCluster
from launch.ssh.host import Order

ALWAYS = ("BatchMode=yes", "ControlPath=none", "ClearAllForwardings=yes")  # ask nothing, and stand for yourself
CONNECT_WITHIN = 20  # seconds

SCRIPT = """\
{{
refuse() {{ echo "$*"; exit {not_fit}; }}
cd {folder} 2>/dev/null || refuse {no_folder}
[ -e {recipe} ] || refuse {no_run}
{setup}[ -x "$(command -v {python})" ] || refuse {no_python}
export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}
exec {python} -P -m launch.ssh.host {lock} {lost_after} {save_within}
}}
"""


@dataclass(frozen=True)
class Job:
    """What is launched, and from where: relative paths in the recipe start there."""

    run: Path
    folder: Path
    snapshot: Snapshot
    python: str
    cluster_file: Path


def connect(cluster: SshCluster, job: Job, host: str) -> list[str]:
    """The command that reaches a host. bash is there whatever the user's own shell is; it reads `script` on stdin."""
    alive = max(1, cluster.lost_after // 3)
    options = [*ALWAYS, f"ConnectTimeout={CONNECT_WITHIN}", f"ServerAliveInterval={alive}", "ServerAliveCountMax=3"]
    words = ["ssh", "-T"]
    for option in [*cluster.ssh_options, *options]:
        words += ["-o", option]
    if cluster.port is not None:
        words += ["-p", str(cluster.port)]
    if cluster.user is not None:
        words += ["-l", cluster.user]
    return [*words, host, "exec bash"]


def script(cluster: SshCluster, job: Job) -> str:
    """What bash does first on a host; what then waits to be told what to run goes on reading stdin. In braces, as bash
    then reads all of it before it begins. -P: of the folder that it runs in, nothing is imported."""
    shared = "it must be on storage that all share"
    no_folder, no_run = f"there is no {job.folder}: {shared}", f"{job.run} is not what it is where you launch: {shared}"
    no_python = f"there is no {job.python}; `python` in {job.cluster_file} names another interpreter"
    return SCRIPT.format(
        folder=shlex.quote(str(job.folder)),
        recipe=shlex.quote(str(job.snapshot.recipe)),
        no_folder=shlex.quote(no_folder),
        no_run=shlex.quote(no_run),
        not_fit=MISTAKE,
        setup="".join(f"{line}\n" for line in cluster.setup),
        python=shlex.quote(job.python),
        no_python=shlex.quote(no_python),
        code=shlex.quote(str(job.snapshot.code)),
        lock=hashlib.sha256(str(job.run).encode()).hexdigest()[:12],
        lost_after=cluster.lost_after,
        save_within=cluster.save_within,
    )


def check(cluster: SshCluster, job: Job, rank: int) -> list[str]:
    """The command that finds out whether a host is fit for the run."""
    gpus = [] if cluster.gpus_per_node is None else ["--gpus", str(cluster.gpus_per_node)]
    return [*brickyard(job), "check", *node(cluster, rank), *gpus, str(job.snapshot.recipe)]


def train(cluster: SshCluster, job: Job, rank: int) -> list[str]:
    return [*brickyard(job), "local", *node(cluster, rank), str(job.snapshot.recipe)]


def brickyard(job: Job) -> list[str]:
    return [job.python, "-P", "-m", "launch", "launch"]


def node(cluster: SshCluster, rank: int) -> list[str]:
    where = ["--nodes", str(cluster.nodes), "--node-rank", str(rank)]
    return ["-n", str(cluster.ranks_per_node), *where, "--master", f"{cluster.address}:{cluster.master_port}"]


def order(cluster: SshCluster, command: list[str]) -> Order:
    """What a host is told, on its stdin, with the secrets in it."""
    secrets = {name: os.environ[name] for name in cluster.secrets}
    return {"command": command, "environment": {**environment(cluster), **secrets}}


def environment(cluster: SshCluster) -> dict[str, str]:
    """Of every rank, without the secrets."""
    threads = {} if cluster.cpus_per_rank is None else {"OMP_NUM_THREADS": str(cluster.cpus_per_rank)}
    named = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if cluster.interface else ()
    return {**threads, **{name: str(cluster.interface) for name in named}, **cluster.environment}


def dry_run(cluster: SshCluster, job: Job) -> str:
    """Every command, as a shell would take it; values of secrets are left out."""
    return "".join(f"{line}\n" for line in dry_lines(cluster, job))


def dry_lines(cluster: SshCluster, job: Job) -> Iterator[str]:
    given = [f"{name}={shlex.quote(value)}" for name, value in environment(cluster).items()]
    given += [f"{name}=(as it is here)" for name in cluster.secrets]
    for rank, host in enumerate(cluster.hosts[: cluster.nodes]):
        yield f"# {host}, which is then told by its stdin"
        yield f"#   to check:  {shlex.join(check(cluster, job, rank))}"
        yield f"#   to train:  {shlex.join(train(cluster, job, rank))}"
        if given:
            yield f"#   both with: {' '.join(given)}"
        yield f"{shlex.join(connect(cluster, job, host))} <<'END'\n{script(cluster, job)}END"
