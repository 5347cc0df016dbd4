"""W&B's files of a run, read by W&B's own reader."""

import json
import subprocess
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def wandb_records(run: Path) -> list[list[dict[str, Any]]]:
    """What each start of a run has left."""
    return [read_log(file) for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]


def read_log(file: Path) -> list[dict[str, Any]]:
    read = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", file]
    lines = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records if record["type"] == kind]
