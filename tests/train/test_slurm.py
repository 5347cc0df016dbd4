"""`brickyard launch slurm` on a real SLURM of two nodes: whatever it does, the steps are those of one run."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch.cli import main
from train.callbacks.metrics_file import iterate_rows

from metric_rows import rows
from processes import brickyard
from slurm_cluster import NODES, ask, slurm_cluster, wait_for, why_not
from wandb_records import of_kind, wandb_records

OPTIONS = ("max_duration=240ba", "save_interval=15ba", "eval_interval=120ba", "wandb.mode=offline")
CLUSTER = """\
nodes: 2
ranks_per_node: 1
partition: train
time: "0:10:00"
restarts: 1
restart_wait: 0
options: [--exclusive]
environment: {OMP_NUM_THREADS: "1"}
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Path]:
    if reason := why_not():
        pytest.skip(reason)
    with slurm_cluster() as folder:
        yield folder


class Job:
    """A run of the workshop's recipe that was submitted."""

    def __init__(self, workshop: SimpleNamespace, name: str) -> None:
        self.run = workshop.root / "runs" / name
        cluster, recipe = workshop.root / "cluster.yaml", workshop.root / f"{name}.yaml"
        cluster.write_text(CLUSTER)
        recipe.write_text(workshop.recipe.read_text())
        assert main(["launch", "slurm", "--cluster", str(cluster), str(recipe), f"run_name={name}", *OPTIONS]) == 0
        recipe.unlink()  # what was launched is what runs
        self.number = (self.run / "launches" / "0001" / "job").read_text()

    @property
    def state(self) -> str:
        """As SLURM tells it, with why and how often it was requeued."""
        told = ask("scontrol", "--oneliner", "show", "job", self.number).split()
        return " ".join(word for word in told if word.startswith(("JobState=", "Restarts=", "ExitCode=")))

    @property
    def log(self) -> str:
        return (self.run / "logs" / f"slurm-{self.number}.log").read_text()

    def wait_for_step(self, step: int) -> None:
        metrics = self.run / "metrics.jsonl"

        def done() -> bool:
            assert not any(state in self.state for state in ("FAILED", "COMPLETED", "CANCELLED")), self.log
            return metrics.exists() and any(row["batch"] >= step for row in iterate_rows(metrics))

        wait_for(done, f"step {step}", 120)

    def wait_for_state(self, *words: str) -> None:
        wait_for(lambda: all(word in self.state for word in words), f"{words} but {self.state}", 300)

    def start_now(self) -> None:
        """SLURM lets a job that was requeued wait for two minutes, counted anew once its last process is gone."""
        wait_for(lambda: not ask("squeue", "--noheader", "--states=COMPLETING"), "end of its last processes")
        time.sleep(3)  # of its script, too
        for _ in range(12):
            subprocess.run(["scontrol", "update", f"JobId={self.number}", "StartTime=now"], capture_output=True)
            with contextlib.suppress(AssertionError):
                return wait_for(lambda: "RUNNING" in self.state, "start", 5)
        raise AssertionError(f"it does not start: {self.state}\n{controller_log()}")


def controller_log() -> str:
    return Path(os.environ["SLURM_CONF"]).with_name("slurmctld.log").read_text()[-3000:]


def processes_of(run: Path) -> dict[str, int]:
    """Of each rank that runs, by the name of its log; it is older than what it has started."""
    found: dict[str, int] = {}
    for pid in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        with contextlib.suppress(OSError):  # it has ended
            log = Path(f"/proc/{pid}/fd/1").readlink()
            if log.parent == run / "logs" and log.name.startswith("rank"):
                found.setdefault(log.name, pid)
    return found


def test_both_nodes_run_a_job(slurm: Path) -> None:
    said = ask("srun", "--nodes=2", "--exclusive", "sh", "-c", "echo $SLURM_NODEID $(hostname)")
    assert sorted(said.split("\n"))[1:] == [f"{rank} {node}" for rank, node in enumerate(NODES)]


def test_failed_limited_and_preempted_the_run_goes_on(workshop: SimpleNamespace, slurm: Path) -> None:
    job = Job(workshop, "spoilt-slurm")
    job.wait_for_step(20)
    os.kill(processes_of(job.run)["rank1.log"], signal.SIGKILL)
    wait_for(lambda: "restart 1 of 1" in job.log, "restart", 60)
    assert "rank 1 ended with SIGKILL" in job.log

    job.wait_for_step(60)
    ask("scancel", "--batch", "--signal=USR1", job.number)  # as --signal says for the end of its time
    job.wait_for_state("PENDING", "Restarts=1")
    assert "which is saved" in job.log
    job.start_now()

    begun = len(rows(job.run))
    job.wait_for_step(begun + 20)
    subprocess.run(["srun", "--partition=urgent", "--nodes=2", "--exclusive", "true"], check=True, timeout=60)
    job.wait_for_state("PENDING", "Restarts=2")
    assert job.log.count("which is saved") == 2
    job.start_now()

    job.wait_for_state("COMPLETED", "ExitCode=0:0")
    assert "done: 240 steps" in job.log
    local = [
        "launch",
        "local",
        "-n",
        "2",
        str(workshop.recipe),
        "run_name=whole-slurm",
        *OPTIONS,
        "wandb.mode=disabled",
    ]
    assert brickyard(local, workshop.root / "whole-slurm.log") == [0]
    assert rows(job.run) == rows(workshop.root / "runs" / "whole-slurm")
    shown = [
        row for start in wandb_records(job.run) for row in of_kind(start, "history") if "loss/total" in row["item"]
    ]
    assert [row["step"]["num"] for row in shown] == [*range(1, 241)]  # W&B's process has had each SIGTERM, too
    assert not processes_of(job.run)


def test_a_cancelled_job_saves_and_is_not_requeued(workshop: SimpleNamespace, slurm: Path) -> None:
    job = Job(workshop, "cancelled")
    job.wait_for_step(20)
    assert main(["launch", "stop", str(job.run)]) == 0
    job.wait_for_state("CANCELLED", "Restarts=0")
    wait_for(lambda: not processes_of(job.run), "end of ranks")
    wait_for(lambda: "which is saved" in job.log, "last words")
