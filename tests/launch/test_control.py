"""`brickyard launch status`, `logs` and `stop`, on the folder of a run."""

import json
import signal
import subprocess
import threading

import pytest

import launch.control as launch_control
from launch.cli import main, say_once
from launch.local import Rank, Watch
from train.checkpoints.checksums import write_checksums
from train.history import History
from train.run_directory import RunDirectory

ROW = {"batch": 1200, "tokens": 4_915_200, "loss/cross_entropy": 3.25}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that is in the middle."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "demo"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "rank0.log").write_text("".join(f"line {number}\n" for number in range(100)))
    (folder / "metrics.jsonl").write_text(json.dumps({"batch": 1}) + "\n" + json.dumps(ROW) + '\n{"batch": 12')
    return folder


@pytest.fixture
def slurm(run, tmp_path, monkeypatch):
    """The run as SLURM's job 17; its commands are scripts that note their words."""
    launch = run / "launches" / "0001"
    launch.mkdir(parents=True)
    (launch / "job.sh").touch()
    (launch / "job").write_text("17")
    for name, said in (("squeue", "RUNNING (None)"), ("scancel", "")):
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/words; echo "{said}"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return tmp_path / "words"


def test_status_says_how_far_a_run_is(run, capfd):
    assert main(["launch", "status", "demo"]) == 0
    said = capfd.readouterr().out
    assert "runs/demo: step 1,200, 4.92M tokens, loss 3.250, " in said
    assert "newest checkpoint: none" in said and "no process that is seen from here is training it" in said
    with RunDirectory(run).lock():
        assert main(["launch", "status", "demo"]) == 0
        assert "a process is training it" in capfd.readouterr().out
    (run / "plan.json").write_text('{"samples": 9600, "steps": 600}')  # since then the batch has doubled
    checkpoint = run / "checkpoints" / "ba00001200"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    for samples in (4800, 9600):
        History(samples, ()).write(checkpoint, samples)
        write_checksums(checkpoint, {})
        assert main(["launch", "status", "demo"]) == 0
        finished = "finished: 1,200 steps are done" in capfd.readouterr().out
        assert finished == (samples == 9600)
    assert main(["launch", "status", "demo"]) == 0
    assert "finished: 1,200 steps are done" in capfd.readouterr().out
    assert main(["launch", "stop", "demo"]) == 2  # at once: it would wait for a launcher
    assert "finished: 1,200 steps are done; there is nothing to stop" in capfd.readouterr().err
    assert main(["launch", "status", str(run)]) == 0


def test_status_asks_the_cluster(slurm, capfd):
    assert main(["launch", "status", "demo"]) == 0
    assert "SLURM job 17: RUNNING (None)" in capfd.readouterr().out


def test_logs_end_with_the_last_lines(run, capfd):
    assert main(["launch", "logs", "-n", "2", "demo"]) == 0
    assert capfd.readouterr().out == "line 98\nline 99\n"
    assert main(["launch", "logs", "--rank", "7", "demo"]) == 2
    assert "rank7.log: no such log (there: rank0.log)" in capfd.readouterr().err


def test_stop_cancels_a_job(slurm, capfd):
    assert main(["launch", "stop", "demo"]) == 0
    assert "SLURM job 17: every rank saves" in capfd.readouterr().out
    assert slurm.read_text().splitlines()[-1] == "scancel 17"


def test_stop_is_heeded_by_a_launcher(run, capfd):
    rank = subprocess.Popen(["sleep", "600"])
    watch = Watch([Rank(0, rank.pid, run / "logs" / "rank0.log", 0)], run / "stop")
    codes = []
    stopping = threading.Thread(target=lambda: codes.append(main(["launch", "stop", "demo"])))
    stopping.start()
    watch.until_ended()
    stopping.join()
    assert codes == [0] and watch.ranks[0].code == -signal.SIGTERM
    assert not (run / "stop").exists()


def test_stop_says_when_nobody_heeds_it(run, capfd, monkeypatch):
    monkeypatch.setattr(launch_control, "HEEDED_WITHIN", 0.3)
    assert main(["launch", "stop", "demo"]) == 2
    assert "no launcher has heeded it" in capfd.readouterr().err
    assert not (run / "stop").exists()


def test_a_cluster_that_can_not_be_asked_is_said(slurm, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(launch_control, "HEEDED_WITHIN", 0.1)
    squeue = tmp_path / "bin" / "squeue"
    for said, expected in (
        ("Unable to contact slurm controller", "can't be asked for: squeue: slurm_load_jobs error: Unable to contact"),
        ("Invalid job id specified", "SLURM job 17: is not known to the cluster any more"),
    ):
        squeue.write_text(f"#!/bin/sh\necho 'slurm_load_jobs error: {said}' >&2; exit 1\n")
        assert main(["launch", "status", "demo"]) == 0
        assert expected in capfd.readouterr().out
        assert main(["launch", "stop", "demo"]) == 2
        assert "no launcher has heeded it" in capfd.readouterr().err  # whose ranks a SLURM job ends with


@pytest.mark.parametrize("command", ["status", "logs", "stop"])
def test_a_run_that_is_not_there_is_said(run, capfd, command):
    assert main(["launch", command, "dmeo"]) == 2
    assert "no such run: runs/dmeo" in capfd.readouterr().err


def test_a_jobset_that_is_over_is_nothing_to_stop(run, tmp_path, monkeypatch, capfd):
    """It stays in the cluster; the run may have been gone on with elsewhere."""
    launch = run / "launches" / "0001"
    launch.mkdir(parents=True)
    (launch / "job.yaml").write_text("metadata: {name: demo}")
    (launch / "job").write_text("demo-0001")
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    monkeypatch.setenv("PATH", str(kubectl.parent), prepend=":")
    monkeypatch.setattr(launch_control, "HEEDED_WITHIN", 0.1)
    for status, code in (('{"terminalState":"Failed"}', 2), ('{"restarts":1}', 0)):
        kubectl.write_text(f"#!/bin/sh\necho '{status}'\n")
        kubectl.chmod(0o755)
        assert main(["launch", "stop", "demo"]) == code
    said = capfd.readouterr()
    assert "no launcher has heeded it" in said.err and "JobSet demo-0001: every rank saves" in said.out
    kubectl.write_text("#!/bin/sh\necho 'error: Unauthorized' >&2; exit 1\n")
    assert main(["launch", "stop", "demo"]) == 2  # pods that ended by themselves would be made anew
    assert "JobSet demo-0001 can't be asked for: kubectl: error: Unauthorized" in capfd.readouterr().err


def test_a_mistake_of_another_machine_is_said_there(monkeypatch, capfd):
    """By what launches its ranks; of the ranks themselves one speaks for all."""
    monkeypatch.setenv("RANK", "8")
    say_once("launch", "no such folder")
    say_once("train", "no such key")
    assert capfd.readouterr().err == "brickyard launch: no such folder\n"
