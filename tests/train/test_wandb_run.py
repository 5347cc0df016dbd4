"""Rows that wait for the next ones are in W&B's files once, whatever comes in between."""

from pathlib import Path

import pytest
import wandb

from train import wandb_run
from train.curriculum.config import AnchorConfig, CurriculumConfig
from train.recipe import DatasetConfig, Recipe, WandbConfig
from train.run_directory import RunDirectory
from train.wandb_run import WandbRun

from wandb_records import of_kind, wandb_records


@pytest.mark.parametrize("hold", [0.0, 3600.0])
def test_rows_that_wait_come_in_order_and_once(hold: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "HOLD", hold)
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
    dashboard = WandbRun(recipe, run, {})
    for batch in (1, 2, 3):
        dashboard.write({"batch": batch, "tokens": 64 * batch, "loss/total": float(batch)})
    dashboard.write({"batch": 3, "tokens": 192, "loss/total": 3.0})  # nothing new
    dashboard.close()
    wandb.teardown()
    [records] = wandb_records(run.path)
    rows = of_kind(records, "history")
    assert [row["step"]["num"] for row in rows] == [1, 2, 3]
