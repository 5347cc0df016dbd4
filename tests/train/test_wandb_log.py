"""W&B's files, cut anywhere: what is whole is found, and is what W&B's own reader finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer

from train.wandb_log import BLOCK, logs_of, mend, newest_row

from wandb_records import of_kind, read_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 40 rows, some of which lie in two blocks."""
    folder = tmp_path_factory.mktemp("wandb")
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        with wandb.init(mode="offline", id="log", dir=str(folder), settings=settings) as run:
            for step in range(1, 41):
                run.log({f"loss/{number}": float(step) for number in range(200)}, step=step)
        wandb.teardown()
    [file] = logs_of(folder / "wandb", "log")
    assert file.stat().st_size > 3 * BLOCK
    return file


@pytest.mark.parametrize("cut", [1, 8, 700, BLOCK, BLOCK + 5])
def test_what_is_whole_is_kept(log: Path, tmp_path: Path, cut: int) -> None:
    file = tmp_path / "offline-run-0-log" / "run-log.wandb"
    file.parent.mkdir()
    file.write_bytes(log.read_bytes()[:-cut])
    before = newest_row([file])
    mend(file)
    assert file.stat().st_size == log.stat().st_size - cut  # somebody may be writing to it
    os.utime(file, (0, 0))
    mend(file)
    records, whole = read_log(file), read_log(log)
    assert records == whole[: len(records)]
    assert newest_row([file]) == before
    newest = of_kind(records, "history")[-1]["step"]["num"]
    assert set(before.values()) == {newest} and f"loss/{199}" in before
    size = file.stat().st_size
    mend(file)
    assert file.stat().st_size == size


def test_wandb_sync_sends_what_is_mended(log: Path, tmp_path: Path) -> None:
    """Of a file that was cut short it says that its last record is incomplete, and leaves the run there."""
    file, server = tmp_path / "offline-run-0-log" / "run-log.wandb", WandbServer()
    file.parent.mkdir()
    file.write_bytes(log.read_bytes()[: -3 * BLOCK])
    os.utime(file, (0, 0))
    mend(file)
    more = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": 40 * "0", "WANDB_CONFIG_DIR": str(tmp_path)}
    environment = {**os.environ, **more, "WANDB_ERROR_REPORTING": "false"}
    command = [sys.executable, "-m", "wandb", "sync", str(file.parent)]
    said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    assert "Finished syncing" in said and "ERROR" not in said
    steps = [row["step"]["num"] for row in of_kind(read_log(file), "history")]
    assert [row["_step"] for row in server.rows] == steps != []
