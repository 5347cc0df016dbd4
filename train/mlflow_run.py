"""The run in MLflow: one run, however often it is resumed, and every metric once.

Composer's own MLFlowLogger finds a run again by its name alone, logs steps that are trained again a second time, and
would log each loss one step before ours.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from train.dashboard import Dashboard, news, warn
from train.recipe import MlflowConfig
from train.run_directory import write_whole

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What MLflow reads when it is imported. It reports its use to its makers, and would ask a server that is gone for
# minutes; of its stores only that in files needs no database.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
MOST_PARAMS = 100  # that MLflow takes at once
LONGEST_PARAM = 6000
LONGEST_LINES = 1024  # bytes: more than two lines of a metric's file


class MlflowRun(Dashboard):
    """Logs to the server that the recipe or MLFLOW_TRACKING_URI names, else into FOLDER/mlflow.

    Numbers only: a server's pictures need a store that this machine may write to.

    Args:
        folder: the run's; FOLDER/mlflow_id keeps the id that MLflow gave it.
        recipe: the resolved recipe, which becomes the run's parameters.
    """

    def __init__(self, config: MlflowConfig, name: str, folder: Path, recipe: Mapping[str, Any]) -> None:
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        from mlflow import MlflowClient

        here = (folder / "mlflow").resolve().as_uri()
        self._uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or here
        self._client: MlflowClient | None = MlflowClient(self._uri)
        self._run = ""
        self._last: dict[str, int] = {}  # metric: the step of its newest value
        self._try(lambda client: self._open(client, config.experiment, name, folder / "mlflow_id", recipe))

    def _open(self, client: MlflowClient, experiment: str, name: str, id_file: Path, recipe: Mapping[str, Any]) -> None:
        """Go on with the run whose id is kept, or else begin one."""
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        if id_file.exists():
            try:
                client.update_run(id_file.read_text(), status="RUNNING")
                self._run = id_file.read_text()
                return
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        self._run = client.create_run(number, run_name=name).info.run_id
        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in leaves(recipe)]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(self._run, params=params[first : first + MOST_PARAMS])
        write_whole(id_file, self._run)

    def open_after(self, batch: int) -> None:
        """MLflow forgets nothing: what it has of steps after `batch` stays, and is not logged again."""

        def look(client: MlflowClient) -> None:
            if folder := metrics_folder(self._uri, self._run):
                self._last = newest_steps(folder)
            else:  # a server has each metric's newest value at hand
                self._last = {one.key: one.step for one in client.get_run(self._run).data.to_proto().metrics}

        self._try(look)

    def write(self, row: Mapping[str, Any]) -> None:
        def log(client: MlflowClient) -> None:
            from mlflow.entities import Metric

            now, new = int(1000 * time.time()), news(filed(row), self._last)
            metrics = [Metric(key, float(value), now, row["batch"]) for key, value in new.items()]
            client.log_batch(self._run, metrics=metrics)

        self._try(log)

    def close(self) -> None:
        status = "FINISHED" if sys.exc_info()[0] is None else "KILLED"
        self._try(lambda client: client.set_terminated(self._run, status=status))

    def _try(self, action: Callable[[MlflowClient], object]) -> None:
        """MLflow looks on: where it can't be reached, training and metrics.jsonl go on without it."""
        from mlflow.exceptions import MlflowException

        if self._client is None:
            return
        try:
            action(self._client)
        except (MlflowException, OSError, ValueError) as error:  # the last: a damaged line in its files
            self._client = None
            warn(f"MLflow is gone ({shorten(str(error) or type(error).__name__, 160)}); metrics.jsonl goes on")


def metrics_folder(uri: str, run: str) -> Path | None:
    """Where MLflow keeps a run's metrics in files; None: another kind of store."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    return next(Path(local_file_uri_to_path(uri)).glob(f"*/{run}/metrics"), None)


def newest_steps(folder: Path) -> dict[str, int]:
    """By metric, the step in the last line of its file (`TIME VALUE STEP`, in the order in which they were logged):
    MLflow itself would read all that was ever logged."""
    files = (path for path in folder.rglob("*") if path.is_file())
    lines = {path.relative_to(folder).as_posix(): last_line(path).split() for path in files}
    return {key: int(line[-1]) for key, line in lines.items() if line}


def last_line(file: Path) -> str:
    """The last that is whole; empty if there is none. It is a short one."""
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - LONGEST_LINES))
        before, newline, _ = content.read().rpartition(b"\n")
    return before.rpartition(b"\n")[2].decode() if newline else ""


def filed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row by names that can be files: `optimizer/gradient_norm`, the folder of `optimizer/gradient_norm/attention`,
    becomes `optimizer/gradient_norm/all`."""
    folders = {key.rpartition("/")[0] for key in row}
    return {f"{key}/all" if key in folders else key: value for key, value in row.items()}


def leaves(recipe: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(key path, value) of everything in the recipe; a list is one value."""
    for key, value in recipe.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
