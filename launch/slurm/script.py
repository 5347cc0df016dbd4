"""The script that SLURM is given."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import MISTAKE, STOPPED
from launch.restarts import LONGEST_WAIT
from launch.slurm.cluster import SlurmCluster
from launch.snapshot import Snapshot

TEMPLATE = """\
#!/bin/bash
# {name}, as `brickyard launch slurm` submitted it.
{options}

{setup}
export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}}
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

# SLURM sends SIGTERM to every rank when it preempts the job, and USR1 to this script when the time limit nears. At
# SIGTERM the ranks save after the step in hand and end; the job then waits for its next turn. SIGTERM to this script
# says that the job is cancelled.
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap 'cancelled=yes' TERM
preempted() {{ squeue --noheader --jobs="$SLURM_JOB_ID" --Format=PreemptTime | grep -q :; }}

# Are all nodes fit? Each says what is wrong with it.
{srun} \\
  bash -c {check}
code=$?
[ "$code" != {mistake} ] || exit "$code"
! preempted || again=yes

restarts=0
pause={pause}
while [ -z "$cancelled$again" ]; do
  echo "launch: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, requeued ${{SLURM_RESTART_COUNT:-0}} times"
  {srun} --kill-on-bad-exit=1 \\
    bash -c {node} &
  step=$!
  while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done # a signal to this script ends `wait`, too
  ! preempted || again=yes
  [ "$code" != {mistake} ] || exit "$code"
  [ -z "$cancelled$again" ] || break
  if [ "$code" = 0 ] || [ "$restarts" -ge {restarts} ]; then exit "$code"; fi
  restarts=$((restarts + 1))
  echo "launch: ended with exit code $code; restart $restarts of {restarts} in $pause s"
  sleep "$pause" &
  wait $! # a signal to this script is heeded at once here, and only after a `sleep` that is not in the background
  pause=$((pause * 2 < {longest} ? pause * 2 : {longest}))
done
if [ -z "$cancelled" ]; then
  echo "launch: stopped and requeued"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


@dataclass(frozen=True)
class Job:
    """What is submitted, and from where: relative paths in the recipe start there."""

    name: str
    log: Path
    folder: Path
    snapshot: Snapshot
    python: str


def job_script(cluster: SlurmCluster, job: Job) -> str:
    """An sbatch script: a task on each node, which starts that node's ranks and watches them."""
    return TEMPLATE.format(
        name=job.name,
        options="\n".join(f"#SBATCH {option}" for option in options(cluster, job)),
        setup="\n".join([*cluster.setup, *exports(cluster)]) or "# (no setup)",
        code=shlex.quote(str(job.snapshot.code)),
        pause=min(cluster.restart_wait, LONGEST_WAIT),
        longest=LONGEST_WAIT,
        restarts=cluster.restarts,
        mistake=MISTAKE,
        srun=" ".join(["srun --cpu-bind=none", *cpus(cluster)]),
        check=shlex.quote(check_command(cluster, job)),
        node=shlex.quote(node_command(cluster, job)),
    )


def options(cluster: SlurmCluster, job: Job) -> Iterator[str]:
    yield f"--job-name={shlex.quote(job.name)}"
    yield f"--chdir={shlex.quote(str(job.folder))}"
    folder = str(job.log.parent).replace("%", "%%")  # of the log's own name alone, SLURM is to fill in what % begins
    yield f"--output={shlex.quote(f'{folder}/{job.log.name}')}"
    yield "--open-mode=append"
    yield f"--nodes={cluster.nodes}"
    yield "--ntasks-per-node=1"
    yield from cpus(cluster)
    if cluster.gpus_per_node is not None:
        yield f"--gpus-per-node={cluster.gpus_per_node}"
    for name in ("partition", "account", "qos", "time"):
        if (value := getattr(cluster, name)) is not None:
            yield f"--{name}={shlex.quote(value)}"
    yield "--requeue"
    yield f"--signal=B:USR1@{cluster.save_before}"
    yield from cluster.options


def cpus(cluster: SlurmCluster) -> list[str]:
    """Asked for by sbatch and by srun, which does not take it over."""
    return (
        [] if cluster.cpus_per_rank is None else [f"--cpus-per-task={cluster.cpus_per_rank * cluster.ranks_per_node}"]
    )


def exports(cluster: SlurmCluster) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]


def check_command(cluster: SlurmCluster, job: Job) -> str:
    """What finds out on each node whether it is fit, with the node's name before each line."""
    gpus = [] if cluster.gpus_per_node is None else [f"--gpus {cluster.gpus_per_node}"]
    command = launch(cluster, job, "check", *gpus)
    return f'{command} 2>&1 | sed -u "s/^/$SLURMD_NODENAME: /"; exit ${{PIPESTATUS[0]}}'


def node_command(cluster: SlurmCluster, job: Job) -> str:
    """What runs on each node. -P: of the folder that it runs in, nothing is imported.

    A node that has stopped at SIGTERM ends with 0, or --kill-on-bad-exit would end one that is still writing. The shell
    has that signal too, and waits.
    """
    command = launch(cluster, job, "local")
    return f"trap : TERM; {command}; code=$?; [ $code = {STOPPED} ] || exit $code"


def launch(cluster: SlurmCluster, job: Job, *words: str) -> str:
    node = f'-n {cluster.ranks_per_node} --nodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID"'
    where = f'{node} --master "$MASTER_ADDR:$MASTER_PORT" {shlex.quote(str(job.snapshot.recipe))}'
    return " ".join([shlex.quote(job.python), "-P -m launch launch", *words, where])
