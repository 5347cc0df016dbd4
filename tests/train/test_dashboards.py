"""W&B, TensorBoard and MLflow show every metric of every step once, in one place, though the run was killed."""

import json
import math
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_workspaces.reports.v2 import LinePlot

from train import mlflow_run
from train.mlflow_run import ENVIRONMENT, MlflowRun, leaves
from train.reader import RecipeSource, read_recipe
from train.recipe import MlflowConfig, Recipe
from train.wandb_run import SUMMARIES
from train.workspace import workspace

from metric_rows import comparable
from processes import brickyard, finish, start
from wandb_records import of_kind, wandb_records

ON = (
    "wandb={mode: offline, tags: [small], group: tests, notes: A test.}",
    "tensorboard=true",
    "mlflow={}",
    "checkpoints.asynchronous=false",
)
Shown = dict[str, list[tuple[int, float]]]  # metric: (step, value)


def command(workshop: SimpleNamespace, name: str, *overrides: str) -> list[str]:
    return ["train", str(workshop.recipe), f"run_name={name}", *ON, *overrides]


@pytest.fixture(scope="module")
def killed(workshop: SimpleNamespace) -> Path:
    """A run of 12 steps that was killed between its checkpoint at step 4 and that at step 8, W&B's own process first,
    and went on."""
    run, log = workshop.root / "runs" / "dashboards", workshop.root / "dashboards.log"
    [process] = start(command(workshop, "dashboards"), log)
    while steps_of(run) < 6:
        assert process.is_alive(), log.read_text()
        time.sleep(0.01)
    for one in (*psutil.Process(process.pid).children(), process):
        os.kill(one.pid or 0, signal.SIGKILL)
    assert finish([process]) == [-signal.SIGKILL]
    assert steps_of(run) < 12
    assert brickyard(command(workshop, "dashboards"), log) == [0], log.read_text()
    assert "going on from" in log.read_text() and "warning" not in log.read_text()
    return run


def steps_of(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("loss/total") if metrics.exists() else 0


def recorded(run: Path) -> Shown:
    """The numbers of metrics.jsonl, which holds each once, but for the step and its tokens."""
    shown: dict[str, dict[int, float]] = {}
    for line in (run / "metrics.jsonl").open():
        row = json.loads(line)
        for key, value in row.items():
            if isinstance(value, int | float):
                shown.setdefault(key, {})[row["batch"]] = value
    return {key: [*values.items()] for key, values in shown.items()}


def clockless(shown: Shown) -> Shown:
    """Without what depends on the clock: of a step that was trained twice, MLflow has the first time."""
    return comparable(shown)


def assert_same(shown: Shown, run: Path) -> None:
    expected = recorded(run)
    assert {key: [step for step, _ in values] for key, values in shown.items()} == {
        key: [step for step, _ in values] for key, values in expected.items()
    }
    for key, values in clockless(expected).items():
        for (step, value), (_, found) in zip(values, shown[key], strict=True):
            assert math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-30), (key, step)


def test_wandb_shows_every_metric_once(killed: Path) -> None:
    before, after = wandb_records(killed)
    shown: Shown = {}
    for row in of_kind([*before, *after], "history"):
        for key, value in row["item"].items():
            if isinstance(value, int | float) and not key.startswith(("_", "moe/routing.")):  # nor of the picture
                shown.setdefault(key, []).append((row["step"]["num"], value))
    assert_same(shown, killed)


def test_wandb_knows_the_run(killed: Path) -> None:
    before, after = wandb_records(killed)
    [[one], [two, *_]] = of_kind(before, "run"), of_kind(after, "run")
    assert one["run_id"] == two["run_id"] == (killed / "wandb_id").read_text()
    said = {key: two[key] for key in ("display_name", "run_group", "tags", "notes", "job_type")}
    assert list(said.values()) == ["dashboards", "tests", ["small"], "A test.", "pretrain"]
    assert two["config"]["update"]["model"]["d_model"] == 32
    axes = {
        metric.get("glob_name", metric.get("name")): metric.get("step_metric") for metric in of_kind(after, "metric")
    }
    assert {f"{group}/*" for group in SUMMARIES} < axes.keys()
    assert {*axes.values()} == {"tokens"}
    summary = of_kind(after, "summary")[-1]["update"]
    for name in ("eval/domain/loss/prose", "domain/loss/prose", "loss/total"):
        assert summary[name]["min"] <= summary[name]["last"]


def test_wandb_has_the_plan_the_card_and_the_way_to_each_checkpoint(killed: Path, workshop: SimpleNamespace) -> None:
    artifacts = of_kind(wandb_records(killed)[1], "artifact")
    files = {one["name"]: [file["path"] for file in one["manifest"]["contents"]] for one in artifacts}
    assert files["dashboards-plan"] == ["plan.json"]
    assert files["dashboards-data-card"] == ["data_card.html", "data_card.md"]
    saved = [one for one in artifacts if one["type"] == "checkpoint"]
    assert [json.loads(one["metadata"])["step"] for one in saved] == [8, 12]
    newest = (killed / "checkpoints" / "ba00000012").resolve()
    assert {file["ref"] for file in saved[-1]["manifest"]["contents"]} == {
        path.as_uri() for path in newest.rglob("*") if path.is_file()
    }


def test_the_workspace_shows_what_there_is(killed: Path) -> None:
    recipe = read_recipe(Recipe, RecipeSource(killed / "recipe.yaml", ()))
    panels = [panel for section in workspace(recipe, ("prose", "code")).sections for panel in section.panels]
    lines = [panel for panel in panels if isinstance(panel, LinePlot)]
    names = recorded(killed).keys()
    assert {metric for line in lines for metric in line.y} - names == {"throughput/mfu"}  # nobody knows a CPU's peak
    patterns = [line.metric_regex for line in lines if line.metric_regex]
    assert all(any(re.search(pattern, name) for name in names) for pattern in patterns)


def test_tensorboard_shows_every_metric_once(killed: Path) -> None:
    assert len(list((killed / "tensorboard").glob("events.*"))) == 2
    events = EventAccumulator(str(killed / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert_same(shown, killed)
    assert [image.step for image in events.Images("moe/routing")] == [6, 12]


def test_mlflow_shows_every_metric_once(killed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    from mlflow import MlflowClient

    client = MlflowClient((killed / "mlflow").as_uri())
    [experiment] = [one for one in client.search_experiments() if one.name == "brickyard"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("dashboards", "FINISHED")
    assert run.data.params["model.d_model"] == "32" and run.data.params["mlflow.experiment"] == "brickyard"
    assert "optimizer/gradient_norm/all" in run.data.metrics  # a folder, of which files can't have the name
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
    shown = {key.removesuffix("/all"): [(one.step, one.value) for one in of] for key, of in histories.items()}
    assert_same(shown, killed)


@pytest.mark.parametrize("in_files", [True, False])
def test_mlflow_is_not_asked_for_all_that_it_has(
    in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time to the first step does not grow with the steps done."""
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    recipe = {"seed": 3}
    first = MlflowRun(MlflowConfig(), "run", tmp_path, recipe)
    for batch in (1, 2, 3):
        first.write({"batch": batch, "tokens": 8 * batch, "loss/total": 1 / batch})
    first.write({"batch": 2, "tokens": 16, "eval/loss": 1.0})  # killed before that of step 3
    from mlflow import MlflowClient

    if not in_files:  # as of a server
        monkeypatch.setattr(mlflow_run, "metrics_folder", lambda uri, run: None)
    with monkeypatch.context() as patch:
        patch.delattr(MlflowClient, "get_metric_history")
        if in_files:
            patch.delattr(MlflowClient, "get_run")
        again = MlflowRun(MlflowConfig(), "run", tmp_path, recipe)
        again.open_after(1)
    for batch in (2, 3, 4):
        again.write({"batch": batch, "tokens": 8 * batch, "loss/total": 1 / batch})
        again.write({"batch": batch, "tokens": 8 * batch, "eval/loss": 1.0})
    client = MlflowClient((tmp_path / "mlflow").as_uri())
    run = (tmp_path / "mlflow_id").read_text()
    for key, steps in {"tokens": [1, 2, 3, 4], "loss/total": [1, 2, 3, 4], "eval/loss": [2, 3, 4]}.items():
        assert [one.step for one in client.get_metric_history(run, key)] == steps


def test_an_mlflow_that_is_gone_stops_nothing(workshop: SimpleNamespace) -> None:
    log, run = workshop.root / "no-mlflow.log", workshop.root / "runs" / "no-mlflow"
    options = ("max_duration=2ba", "mlflow={tracking_uri: 'http://127.0.0.1:9'}")
    assert brickyard(command(workshop, "no-mlflow", *options), log) == [0]
    assert log.read_text().count("warning: MLflow is gone (") == 1
    assert steps_of(run) == 2


def test_leaves() -> None:
    recipe: dict[str, Any] = {"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}]}
    assert dict(leaves(recipe)) == {"a.b": 1, "a.c": {}, "d": [1, {"e": 2}]}
