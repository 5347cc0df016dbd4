"""Rows that wait for the next ones are in W&B's files once, whatever comes in between."""

import json
from pathlib import Path

import pytest
import wandb

from train import wandb_run
from train.curriculum.config import AnchorConfig, CurriculumConfig
from train.events import START, record
from train.recipe import DatasetConfig, Recipe, WandbConfig
from train.run_directory import RunDirectory
from train.wandb_run import WandbRun

from wandb_records import of_kind, wandb_records


def new_run(tmp_path: Path) -> tuple[Recipe, RunDirectory]:
    recipe = Recipe(
        "held",
        "10ba",
        4,
        16,
        DatasetConfig(str(tmp_path)),
        CurriculumConfig([AnchorConfig("0tok", {"web": 1.0})]),
        run_root=str(tmp_path),
        wandb=WandbConfig(mode="offline"),
    )
    run = RunDirectory.of(recipe)
    run.path.mkdir()
    return recipe, run


def shown(run: RunDirectory) -> list[list[int]]:
    """The steps in the file of each start."""
    wandb.teardown()
    return [[row["step"]["num"] for row in of_kind(records, "history")] for records in wandb_records(run.path)]


@pytest.mark.parametrize("hold", [0.0, 3600.0])
def test_rows_that_wait_come_in_order_and_once(hold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "HOLD", hold)
    recipe, run = new_run(tmp_path)
    dashboard = WandbRun(recipe, run, {})
    for batch in (1, 2, 3):
        dashboard.write({"batch": batch, "tokens": 64 * batch, "loss/total": float(batch)})
    dashboard.write({"batch": 3, "tokens": 192, "loss/total": 3.0})  # nothing new
    dashboard.close()
    assert shown(run) == [[1, 2, 3]]


@pytest.mark.parametrize(("starts", "again"), [([0], [1, 2, 3, 4]), ([0, 2], [3, 4]), ([0, 4], [])])
def test_what_was_sent_and_cleared_away_is_not_shown_again(starts: list[int], again: list[int], tmp_path: Path) -> None:
    """The newest of the starts was killed before it had a row in its file, which is the only one that is left."""
    recipe, run = new_run(tmp_path)
    for step in starts:
        record(run, START, step=step)
    WandbRun(recipe, run, {}).close()
    rows = [{"batch": batch, "tokens": 64 * batch, "loss/total": 1.0} for batch in (1, 2, 3, 4)]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    record(run, START, step=4)
    dashboard = WandbRun(recipe, run, {})
    dashboard.open_after(4)
    dashboard.write({"batch": 5, "tokens": 320, "loss/total": 1.0})
    dashboard.close()
    assert shown(run) == [[], [*again, 5]]
