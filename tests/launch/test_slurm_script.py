"""The script that `brickyard launch slurm` submits, and the mistakes that it finds first. No SLURM is needed."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.cli import main
from launch.slurm.cluster import seconds

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "slurm_job.sh"
CLUSTER = """\
nodes: 4
ranks_per_node: 8
gpus_per_node: 8
cpus_per_rank: 12
partition: train
account: llm
time: "1-00:00:00"
options: [--exclusive]
setup: [module load cuda]
environment: {NCCL_DEBUG: WARN, MOTTO: two words}
python: /shared/venv/bin/python
"""


@pytest.fixture
def launch(launch_on):
    def run(cluster=CLUSTER, *more):
        return launch_on("slurm", cluster, *more)

    return run


def test_a_dry_run_prints_the_job_and_does_nothing(launch, tmp_path, capfd):
    assert launch(CLUSTER, "--dry-run") == 0
    script = capfd.readouterr().out
    assert script.replace(str(tmp_path), "/shared") == GOLDEN.read_text()
    assert not (tmp_path / "runs").exists()
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_what_is_submitted_is_what_the_dry_run_prints(launch, tmp_path, capfd, monkeypatch):
    """`sbatch` is a script that keeps what it is given."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncp "$2" {tmp_path}/submitted; echo 17\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", str(sbatch.parent), prepend=":")
    assert launch(CLUSTER, "--dry-run") == 0
    printed = capfd.readouterr().out
    assert launch() == 0
    assert (tmp_path / "submitted").read_text() == printed
    folder = tmp_path / "runs" / "a run" / "launches" / "0001"
    assert (folder / "job").read_text() == "17"
    assert (folder / "code" / "launch" / "local.py").read_text() == (ROOT / "launch" / "local.py").read_text()
    assert "run_name: a run" in (folder / "recipe.yaml").read_text()
    kept = [file.read_text() for file in folder.rglob("*") if file.is_file() and "code" not in file.parts]
    assert not any("not-to-be-seen" in text for text in [printed, *kept])
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2; exit 1\n")
    assert launch() == 2
    assert "invalid partition" in capfd.readouterr().err
    assert launch(CLUSTER, "--dry-run") == 0
    assert "launches/0002" in capfd.readouterr().out  # what was refused is gone: `status` and `stop` mean job 17


def test_slurm_fills_in_the_name_of_the_log_alone(launch, tmp_path, capfd):
    assert launch(CLUSTER, "run_name=50%u of it", "--dry-run") == 0
    assert f"--output='{tmp_path}/runs/50%%u of it/logs/slurm-%j.log'\n" in capfd.readouterr().out


FAKES = {
    "srun": 'case "$*" in *"launch check"*) exit 0 ;; *) exit 1 ;; esac',
    "squeue": "",
    "scontrol": 'echo "scontrol $*"',
    "scancel": 'echo "scancel $*"',
}


@pytest.fixture
def job(launch, tmp_path, capfd):
    """Starts the script beside commands of SLURM that do nothing; its ranks fail at once. Returns it and its log."""
    for name, body in FAKES.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{body}\n")
        file.chmod(0o755)
    started = []

    def start(cluster):
        assert launch(cluster, "--dry-run") == 0
        (tmp_path / "job.sh").write_text(capfd.readouterr().out)
        environment = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "17",
            "SLURM_JOB_NODELIST": "node-1",
        }
        log = tmp_path / "log"
        with log.open("wb") as output:
            command = ["bash", str(tmp_path / "job.sh")]
            started.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
            )
        return started[-1], log

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_time_limit_that_nears_in_the_pause_before_a_restart_is_heeded_at_once(job):
    process, log = job(CLUSTER.replace("[module load cuda]", "[]") + "restart_wait: 500\n")
    deadline = time.monotonic() + 60
    while "restart 1 of 3 in 500 s" not in log.read_text():
        assert time.monotonic() < deadline and process.poll() is None, log.read_text()
        time.sleep(0.05)
    while process.poll() is None and time.monotonic() < deadline:  # more than once: it may not have begun to wait
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.5)
    assert process.poll() == 1
    assert log.read_text().endswith("scancel --signal=TERM 17\nlaunch: stopped and requeued\nscontrol requeue 17\n")


def test_no_pause_is_longer_than_ten_minutes(job, tmp_path):
    """`sleep` is a command that says how long and returns."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    sleep = tmp_path / "bin" / "sleep"
    sleep.write_text('#!/bin/bash\necho "sleep $1"\n')
    sleep.chmod(0o755)
    process, log = job(CLUSTER.replace("[module load cuda]", "[]") + "restart_wait: 200\nrestarts: 4\n")
    assert process.wait(timeout=60) == 1
    pauses = [line for line in log.read_text().splitlines() if line.startswith("sleep ")]
    assert pauses == ["sleep 200", "sleep 400", "sleep 600", "sleep 600"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("nodes: 4", "nodes: 0", "cluster.yaml:1: nodes: expected 1 or more, found 0"),
        ("nodes: 4", "nodes: 3", "number of ranks (24), found 32"),
        ("ranks_per_node: 8", "ranks_per_node: 9", "ranks_per_node: expected at most gpus_per_node (8), found 9"),
        ('"1-00:00:00"', "24:00:00", 'time: expected hours or days in quotes, such as "24:00:00"'),
        ('"1-00:00:00"', '"5:00"', "time: expected more than save_before (300 s)"),
        ("NCCL_DEBUG", "WANDB_API_KEY", "environment.WANDB_API_KEY: may be a secret"),
        ("[--exclusive]", "[-x]", "options[0]: expected an option of sbatch"),
        ("partition", "partitions", "partitions: no such key; did you mean partition?"),
    ],
)
def test_mistakes_are_said_and_nothing_is_submitted(launch, tmp_path, capfd, before, after, said):
    assert launch(CLUSTER.replace(before, after)) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_where_there_is_no_slurm_it_says_so(launch, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch() == 2
    assert "sbatch is not here" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nodes", "2"], "expected --master HOST:PORT too"),
        (
            ["--nodes", "2", "--node-rank", "2", "--master", "a:1"],
            "--node-rank: expected a number from 0 to 1, found 2",
        ),
        (["--nodes", "2", "--master", "a"], "--master: expected HOST:PORT, found a"),
    ],
)
def test_a_node_is_one_of_several(write_run, capfd, monkeypatch, options, said):
    monkeypatch.setenv("RANK", "0")
    recipe = write_run({"web": [1000]}, [{"at": "0tok", "weights": {"web": 1}}])
    assert main(["launch", "local", *options, "-n", "1", str(recipe)]) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("time", "expected"),
    [("30:00", 1800), ("0:05:00", 300), ("24:00:00", 86400), ("2-00:00:00", 172800), ("1-1", 90000), ("1-1:30", 91800)],
)
def test_a_time_limit_is_as_many_seconds_as_slurm_reads(time, expected):
    assert seconds(time) == expected
