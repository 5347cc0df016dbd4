"""What is found of machines before they train, each in a sentence."""

from types import SimpleNamespace

import pytest

from launch.checks import ask_smi, disk_problems, smi_problems
from launch.cli import main
from launch.meeting import Machine, clock_problems, unseen
from launch.node import interface_towards
from launch.restarts import wait_of_restart
from train.checkpoints.size import checkpoint_bytes
from train.events import record
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe
from train.run_directory import RunDirectory

ANCHORS = [{"at": "0tok", "weights": {"web": 1}}]


def machines(*clocks, file="/nowhere/file"):
    return [Machine(f"node-{rank}", clock, file) for rank, clock in enumerate(clocks)]


def test_a_clock_is_held_against_the_first_machines():
    assert not list(clock_problems(machines(1000.0, 1004.0), 1))
    assert not list(clock_problems(machines(1000.0, 2000.0), 0))
    assert list(clock_problems(machines(1000.0, 1042.0), 1)) == [
        "its clock is 42 s ahead of that of node-0; `timedatectl` says which is set by NTP"
    ]
    assert "7 s behind" in next(clock_problems(machines(1000.0, 993.0), 1))


def test_a_machine_sees_what_the_first_one_has_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("node-0")
    assert not list(unseen(machines(1.0, 1.0, file=str(file)), 1))
    assert "does not see what node-0 writes to /nowhere" in next(unseen(machines(1.0, 1.0), 1))


def test_nvidia_smi_knows_gpus_that_are_ill():
    assert not list(smi_problems("0, 0, No\n1, [N/A], [N/A]\n"))
    assert not list(smi_problems("No devices were found\n"))
    corrupt, worn = smi_problems("0, 0, No\n1, 2, No\n2, 0, Yes\n")
    assert corrupt.startswith("GPU 1 has had 2 memory errors that were not corrected;")
    assert worn.startswith("GPU 2 could not remap memory that has failed;")


@pytest.mark.parametrize("place", ["check", "local"])
def test_no_ranks_are_too_few(place, write_run, capfd):
    assert main(["launch", place, "-n", "0", str(write_run({"web": [1000]}, ANCHORS))]) == 2
    assert capfd.readouterr().err == "brickyard launch: -n: expected 1 or more, found 0\n"


def test_only_gpus_that_may_be_used_are_asked_for(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "$3"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ask_smi() == "\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert ask_smi() == "--id=0,2\n"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert ask_smi() == ""


def test_room_for_checkpoints_is_asked_for(write_run, monkeypatch, tmp_path):
    recipe = read_recipe(Recipe, RecipeSource(write_run({"web": [1000]}, ANCHORS, save_interval="10ba")))
    run, each = RunDirectory.of(recipe), checkpoint_bytes(recipe.model)

    def problems(free):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
        return list(disk_problems(recipe, run))

    assert not problems(3 * each)
    (problem,) = problems(3 * each - 1)
    assert problem.startswith(f"{tmp_path} has ") and "3 more checkpoints of" in problem
    for steps in (1, 2):
        (run.checkpoints / f"ba0000000{steps}").mkdir(parents=True)
    assert not problems(each) and problems(each - 1)
    recipe.checkpoints.keep_every = "20ba"  # of 100 steps: 20, 40, 60, 80, 90 and 100
    assert not problems(5 * each) and problems(5 * each - 1)


def test_the_interface_is_the_one_that_leads_there():
    assert interface_towards("127.0.0.1") is None
    assert interface_towards("no.such.host.invalid") is None


def test_a_restart_waits_longer_after_each_start_without_a_checkpoint(tmp_path):
    run = RunDirectory(tmp_path)
    waits = [wait_of_restart(run, 30)]
    for event in ("start", "start", "start", "saved", "start", "rollback", "start"):
        record(run, event)
        waits.append(wait_of_restart(run, 30))
    assert waits == [30, 30, 60, 120, 30, 30, 30, 60]
    assert wait_of_restart(run, 400) == 600
