"""A run that is killed and started again is the run that was never killed, bit for bit."""

import errno
import json
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from train.checkpoints.checksums import write_checksums
from train.checkpoints.safe_reader import SafeReader, load_tensors
from train.checkpoints.weights import MODEL

from metric_rows import rows
from processes import brickyard, die_while_saving, finish, start

# Balancing that goes on from what the steps before have left.
BALANCING = [
    "model.ffn_config.moe_loss_scope=global_batch",
    "model.ffn_config.moe_bias_update_rate=0.001",
    "model.ffn_config.moe_zloss_weight=1e-3",
]


@pytest.fixture(scope="module")
def uninterrupted(workshop: SimpleNamespace) -> Path:
    run = workshop.root / "runs" / "uninterrupted"
    assert train(workshop, "uninterrupted", "checkpoints.keep_last=3", "wandb.mode=offline") == [0]
    return run


def train(workshop: SimpleNamespace, run_name: str, *overrides: str, **options: Any) -> list[int | None]:
    return brickyard(command(workshop, run_name, *overrides), log_of(workshop, run_name), **options)


def command(workshop: SimpleNamespace, run_name: str, *overrides: str) -> list[str]:
    return ["train", str(workshop.recipe), f"run_name={run_name}", *BALANCING, *overrides]


def log_of(workshop: SimpleNamespace, run_name: str) -> Path:
    return workshop.root / f"{run_name}.log"


def names(run: Path) -> set[str]:
    """Of the run's checkpoints, and of whatever else lies beside them."""
    return {path.name for path in (run / "checkpoints").iterdir()} - {"latest"}


def test_every_step_is_recorded_once(uninterrupted: Path) -> None:
    recorded = rows(uninterrupted)
    steps = [row for row in recorded if "loss/total" in row]
    evaluations = [row for row in recorded if "eval/domain/loss/code" in row]
    assert [row["batch"] for row in steps] == list(range(1, 13))
    assert [row["batch"] for row in evaluations] == [6, 12]
    for row in evaluations:
        by_domain = [row[f"eval/domain/loss/{domain}"] for domain in ("prose", "code")]
        assert row["eval/loss/cross_entropy"] == sum(by_domain) / 2
    assert [row["tokens"] for row in steps] == [256 * step for step in range(1, 13)]
    for row in steps:
        assert sum(row[f"mixture/delivered/{domain}"] for domain in ("prose", "code")) == pytest.approx(1)
        assert row["mixture/delivered/code"] == pytest.approx(row["mixture/asked/code"], abs=0.25)
        assert all(sum(layer) == 256 * 2 for layer in row["moe/tokens_per_expert"])
        by_domain = [row[f"domain/loss/{d}"] * row[f"mixture/delivered/{d}"] for d in ("prose", "code")]
        assert sum(by_domain) == pytest.approx(row["loss/cross_entropy"], rel=1e-6)
    assert steps[-1]["loss/cross_entropy"] < steps[0]["loss/cross_entropy"]


def test_the_run_directory_tells_the_story(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    assert {"recipe.yaml", "manifest.json", "plan.json", "metrics.jsonl", "checkpoints", "wandb"} <= {
        path.name for path in uninterrupted.iterdir()
    }
    assert list(uninterrupted.glob("wandb/offline-run-*/*.wandb"))
    assert len(list(uninterrupted.glob("wandb/offline-run-*/files/media/images/moe/routing_*.png"))) == 2
    log = log_of(workshop, "uninterrupted").read_text()
    assert "step 12/12" in log
    assert "held-out loss" in log
    assert "Traceback" not in log


def test_the_last_step_s_counts_and_biases_are_in_the_checkpoint(uninterrupted: Path) -> None:
    """Evaluation, which came between the step and its checkpoint, has not changed them."""
    steps = [row for row in rows(uninterrupted) if "loss/total" in row]
    state = saved_buffers(uninterrupted / "checkpoints" / "ba00000012")
    assert state["last_step_tokens"].tolist() == steps[-1]["moe/tokens_per_expert"]
    for layer in range(2):
        bias, moved = state[f"model.transformer.blocks.{layer}.ffn.router.expert_bias"], torch.zeros(4)
        for row in steps:
            tokens = torch.tensor(row["moe/tokens_per_expert"][layer])
            wanted = (128 - tokens).sign().float()  # an equal share of 256 tokens' two choices
            moved += 0.001 * (wanted - wanted.mean())
        assert torch.equal(bias, moved) and bias.any()


def saved_buffers(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What the model keeps beside its parameters, by name."""
    reader = SafeReader(checkpoint)
    names = [name for name in reader.tensors if name.endswith(("last_step_tokens", "expert_bias"))]
    found = {
        name: torch.empty(reader.tensors[name].size, dtype=reader.tensors[name].properties.dtype) for name in names
    }
    load_tensors(reader, found, no_dist=True)
    return {name.removeprefix(MODEL): value for name, value in found.items()}


def test_killed_between_saves(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run = workshop.root / "runs" / "killed"
    [process] = start(command(workshop, "killed"), log_of(workshop, "killed"))
    wait_for_step(run, 6, process)
    os.kill(process.pid or 0, signal.SIGKILL)
    assert finish([process]) == [-signal.SIGKILL]
    # Other dataloader workers are another layout of the same order.
    assert train(workshop, "killed", "dataset.num_workers=2") == [0]
    assert "going on from" in log_of(workshop, "killed").read_text()
    assert rows(run) == rows(uninterrupted)


def wait_for_step(run: Path, step: int, process: Any) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        file = run / "metrics.jsonl"
        if file.exists() and f'"batch": {step},' in file.read_text():
            return
        time.sleep(0.005)
    raise AssertionError("the run ended, or never came to the step")


@pytest.mark.parametrize(
    ("before", "left"),
    [
        ("write_tensors", {"ba00000004"}),
        ("publish", {"ba00000004", ".partial-ba00000008"}),
        ("point_to", {"ba00000004", "ba00000008"}),
    ],
)
def test_killed_while_saving(uninterrupted: Path, workshop: SimpleNamespace, before: str, left: set[str]) -> None:
    name = f"killed-before-{before}"
    run = workshop.root / "runs" / name
    assert train(workshop, name, before=die_while_saving(8, before)) == [-signal.SIGKILL]
    assert names(run) == left
    assert (run / "checkpoints" / "latest").read_text() == "ba00000004\n"
    assert train(workshop, name) == [0]
    assert names(run) == {"ba00000008", "ba00000012"}
    assert (run / "checkpoints" / "latest").read_text() == "ba00000012\n"
    assert rows(run) == rows(uninterrupted)


class WaitForSteps:
    """Holds a save back until training has gone on beside it."""

    def __init__(self, metrics: Path) -> None:
        self.metrics = metrics

    def __call__(self) -> None:
        from train.checkpoints import writing

        publish = writing.publish

        def publish_later(snapshot: Any, *arguments: Any) -> None:
            wanted, deadline = f'"batch": {min(12, snapshot.step + 3)},', time.monotonic() + 60
            while wanted not in self.metrics.read_text():
                assert time.monotonic() < deadline, "training waits for the save"
                time.sleep(0.01)
            publish(snapshot, *arguments)

        writing.publish = publish_later


def test_training_goes_on_beside_a_save_and_does_not_change_it(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run = workshop.root / "runs" / "beside"
    assert train(workshop, "beside", before=WaitForSteps(run / "metrics.jsonl")) == [0]
    assert "can't be written" not in log_of(workshop, "beside").read_text()
    shutil.rmtree(run / "checkpoints" / "ba00000012")
    assert train(workshop, "beside") == [0]  # from step 8, whose checkpoint was written when step 11 was done
    assert rows(run) == rows(uninterrupted)


class FullDisk:
    """The disk is full for the checkpoints of these steps, on one rank."""

    def __init__(self, *steps: int, rank: str = "0") -> None:
        self.names = [f"ba{step:08d}" for step in steps]
        self.rank = rank

    def __call__(self) -> None:
        from train.checkpoints.tensors import _HashedFile

        write = _HashedFile.write

        def refuse(file: Any, data: Any) -> int:
            if os.environ["RANK"] == self.rank and any(name in str(file.name) for name in self.names):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data)

        _HashedFile.write = refuse  # type: ignore[method-assign]


def test_a_full_disk_is_survived_while_it_passes(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run, log = workshop.root / "runs" / "full-once", log_of(workshop, "full-once")
    assert train(workshop, "full-once", before=FullDisk(8)) == [0]
    assert names(run) == {"ba00000004", "ba00000012"}
    said = log.read_text()
    assert "warning: the checkpoint of step 8 can't be written (No space left on device)" in said
    assert f"the newest good one is {run}/checkpoints/ba00000004; training goes on" in said
    assert rows(run) == rows(uninterrupted)


def test_a_full_disk_ends_the_run_when_it_stays(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run, log = workshop.root / "runs" / "full", log_of(workshop, "full")
    assert train(workshop, "full", before=FullDisk(12, rank="1"), ranks=2) == [2, 2]
    assert names(run) == {"ba00000004", "ba00000008"}
    assert "brickyard train: the checkpoint of step 12 can't be written (No space left on device)" in log.read_text()
    assert "Traceback" not in log.read_text()
    log.unlink()
    assert train(workshop, "full", "save_interval=1ba", "max_duration=20ba", before=FullDisk(*range(9, 20))) == [2]
    assert log.read_text().count("training goes on") == 2
    assert "the checkpoint of step 11 can't be written" in log.read_text()
    assert "Traceback" not in log.read_text()


def damage(file: Path) -> None:
    """One bit."""
    with file.open("r+b") as content:
        content.seek(file.stat().st_size // 2)
        byte = content.read(1)[0]
        content.seek(-1, os.SEEK_CUR)
        content.write(bytes([byte ^ 1]))


def unfinished(run: Path, name: str) -> Path:
    """A copy of a run as it was after step 8 or so, with the checkpoints of steps 4 and 8."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "ba00000012")
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(f"run_name: {run.name}", f"run_name: {name}"))
    return copy


@pytest.mark.parametrize("file", ["__0_0.distcp", "checksums.json"])
def test_a_damaged_checkpoint_is_passed_over(uninterrupted: Path, workshop: SimpleNamespace, file: str) -> None:
    name = f"damaged-{file}"
    run, log = unfinished(uninterrupted, name), log_of(workshop, name)
    damage(run / "checkpoints" / "ba00000008" / file)
    assert train(workshop, name) == [0]
    said = log.read_text()
    assert "ba00000008 is set aside" in said and file in said
    assert "going on from" in said and "ba00000004, at step 4" in said
    assert names(run) == {"ba00000008", "ba00000012"}
    assert rows(run) == rows(uninterrupted)


def test_without_a_good_checkpoint_a_run_ends(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run, log = unfinished(uninterrupted, "all-damaged"), log_of(workshop, "all-damaged")
    for checkpoint in names(run):
        damage(run / "checkpoints" / checkpoint / "__0_0.distcp")
    for _ in range(2):  # it does not begin anew the second time
        log.unlink(missing_ok=True)
        assert train(workshop, "all-damaged", ranks=2) == [2, 2]
        assert "no checkpoint is good (2 damaged)" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_another_version_s_checkpoint_is_refused(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run, log = unfinished(uninterrupted, "version"), log_of(workshop, "version")
    checkpoint = run / "checkpoints" / "ba00000008"
    state = checkpoint / "state.json"
    state.write_text(state.read_text().replace('"version": 1', '"version": 7'))
    write_checksums(checkpoint, {})
    assert train(workshop, "version") == [2]
    assert f"{state} has version 7, this Brickyard reads version 1" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(uninterrupted: Path, workshop: SimpleNamespace, number: signal.Signals) -> None:
    """Ctrl-C, or a scheduler that takes the machine back: the step in hand is saved and nothing is done twice."""
    name = number.name.lower()
    run = workshop.root / "runs" / name
    [process] = start(command(workshop, name, "dataset.num_workers=2"), log_of(workshop, name))
    wait_for_step(run, 5, process)
    leader = psutil.Process(process.pid)
    for member in [*leader.children(), leader]:  # as a terminal does: to the dataloader workers as well
        with suppress(psutil.NoSuchProcess):  # a child that was there for a moment
            member.send_signal(number)
    assert finish([process]) == [128 + number]
    assert "the same command goes on from there" in log_of(workshop, name).read_text()
    stopped_at = max(int(checkpoint.removeprefix("ba")) for checkpoint in names(run))
    assert max(row["batch"] for row in rows(run)) == stopped_at
    assert train(workshop, name) == [0]
    assert rows(run) == rows(uninterrupted)


def test_a_finished_run_says_so_and_can_be_prolonged_only_without_moving_its_past(
    uninterrupted: Path, workshop: SimpleNamespace
) -> None:
    log = log_of(workshop, "uninterrupted")
    before, said = rows(uninterrupted), log.read_text()
    assert train(workshop, "uninterrupted") == [0]
    assert log.read_text() == f"{said}train: {uninterrupted} is finished: 12 steps are done\n"
    assert train(workshop, "uninterrupted", "seed=4", "optimizer.lr=1e-3") == [2]
    assert "  optimizer.lr: 0.003 -> 0.001\n  seed: 3 -> 4\n" in log.read_text()
    assert "  curriculum.seed: 3 -> 4  (for good: " in log.read_text()
    assert train(workshop, "uninterrupted", "curriculum.anchors[1].at=2_000tok") == [2]
    assert rows(uninterrupted) == before


def test_one_process_at_a_time(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    run = workshop.root / "runs" / "taken"
    first = start(command(workshop, "taken", "max_duration=2000ba"), log_of(workshop, "taken"))
    try:
        wait_for_step(run, 2, first[0])
        assert brickyard(command(workshop, "taken", "max_duration=2000ba"), workshop.root / "second.log") == [2]
        assert "is training this run" in (workshop.root / "second.log").read_text()
    finally:
        first[0].kill()
        finish(first)


def test_two_ranks_are_one_run(workshop: SimpleNamespace) -> None:
    """Without dropout and jitter (their noise is each rank's own) the layout changes nothing but rounding. The first
    layer has no experts."""
    quiet = ["model.resid_pdrop=0", "model.ffn_config.moe_jitter_eps=null"]
    quiet += ["model.n_layers=3", "model.ffn_config.first_k_dense_replace=1"]
    assert train(workshop, "one", *quiet) == [0]
    assert train(workshop, "two", *quiet, ranks=2) == [0, 0]
    assert train(workshop, "moved", *quiet, ranks=2, before=die_while_saving(8))[0] == -signal.SIGKILL
    assert train(workshop, "moved", *quiet) == [0]
    one, two, moved = (rows(workshop.root / "runs" / name) for name in ("one", "two", "moved"))
    assert len(one) == len(two) == len(moved) == 16  # 12 steps, and 2 evaluations with their routing
    for here, there, then in zip(one, two, moved, strict=True):
        for other in (there, then):
            assert other.keys() == here.keys()
            for key in here:
                if "loss" in key:
                    assert other[key] == pytest.approx(here[key], rel=2e-6)
                if key.startswith("mixture/") or key == "moe/tokens_per_expert":
                    assert other[key] == here[key]


def test_a_run_may_change_its_future_but_not_its_past(uninterrupted: Path, workshop: SimpleNamespace) -> None:
    """Killed at step 6 with a checkpoint at 4: what follows may be another mixture, and another global batch."""
    run, log = workshop.root / "runs" / "changed", log_of(workshop, "changed")
    assert train(workshop, "changed", before=die_while_saving(8)) == [-signal.SIGKILL]
    assert train(workshop, "changed", "curriculum.anchors[0].weights={prose: 0.5, code: 0.5}") == [2]
    assert "for token 0 the recipe asks for other weights" in log.read_text()
    anchors = "curriculum.anchors=[{at: 0tok, weights: {prose: 0.75, code: 0.25}}, "
    anchors += "{at: 1_024tok, weights: {prose: 0.4166666667, code: 0.5833333333}, ramp: linear}, "
    anchors += "{at: 1_056tok, weights: {prose: 0, code: 1}}]"
    assert train(workshop, "changed", anchors, "global_train_batch_size=4", "max_duration=96sp") == [0]
    assert "from token 1,024 on: curriculum.anchors" in log.read_text()
    steps = [row for row in rows(run) if "loss/total" in row]
    before = [row for row in rows(uninterrupted) if "loss/total" in row]
    assert steps[:4] == before[:4]
    assert [row["samples"] for row in steps[4:]] == list(range(36, 100, 4))
    assert [row["mixture/delivered/code"] for row in steps[5:]] == [1] * 15
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    happened = [(event["event"], event["step"]) for event in events]
    saves = [("saved", step) for step in (8, 12, 16, 20)]
    assert happened == [("start", 0), ("saved", 4), ("recipe changed", 4), ("start", 4), *saves]
    event = events[2]
    assert (
        "global_train_batch_size: 8 -> 4" in event["changes"] and "max_duration: '12ba' -> '96sp'" in event["changes"]
    )
    history = json.loads((run / "checkpoints" / "ba00000020" / "curriculum.json").read_text())
    assert history["samples"] == 96
    assert [followed["start"] for followed in history["followed"]] == [0, 32]
    assert history["followed"][0]["fingerprint"] != history["followed"][1]["fingerprint"]
    plan = json.loads((run / "plan.json").read_text())
    assert plan["steps"] == 20  # 4 of 8 samples and 16 of 4
    assert [(anchor["sample"], anchor["step"]) for anchor in plan["anchors"]] == [(0, None), (32, 5), (33, 5)]
    assert any("global_train_batch_size was 8 and is now 4" in change for change in history["followed"][1]["changes"])
