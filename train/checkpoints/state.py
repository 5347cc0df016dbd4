"""What a checkpoint holds beside tensors: one JSON file, of plain values."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

from composer import State
from composer.core import Timestamp

from train.callbacks.all_in_one import members_of
from train.errors import RecipeError

FILE = "state.json"
VERSION = 1


def state_of(state: State) -> dict[str, Any]:
    """How far the trainer, the data and our callbacks are; the same on every rank."""
    samples = int(state.timestamp.sample_in_epoch.value)
    members = members_of(state)
    return {
        "version": VERSION,
        "timestamp": {name: plain(value) for name, value in state.timestamp.state_dict().items()},
        "dataset": dataset_of(state).state_dict(samples, True),
        "callbacks": {type(callback).__name__: kept for callback in members if (kept := callback.state_dict())},
    }


def restore(state: State, content: dict[str, Any]) -> None:
    """Put a trainer where `state_of` found one."""
    state.timestamp = Timestamp(**{name: from_plain(name, value) for name, value in content["timestamp"].items()})
    state.load_state_dict({"dataset_state": {"train": content["dataset"], "eval": {}}}, logger=None)  # type: ignore[arg-type]
    for callback in members_of(state):
        if kept := content["callbacks"].get(type(callback).__name__):
            callback.load_state_dict(kept)


def dataset_of(state: State) -> Any:
    """The one that the training data comes from."""
    loader: Any = state.train_dataloader
    return loader.dataset


def plain(value: Any) -> Any:
    """Seconds for a duration; the rest are numbers already."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def from_plain(name: str, value: Any) -> Any:
    return timedelta(seconds=value) if name.endswith("_wct") else value


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint's file.

    Raises:
        RecipeError: it is missing or damaged, or another version of Brickyard wrote it.
    """
    path = checkpoint / FILE
    try:
        content = json.loads(path.read_text())
        version = content["version"]
    except OSError:
        raise RecipeError(f"{path} is missing: these are weights alone, or an older Brickyard wrote them") from None
    except (ValueError, KeyError, TypeError):
        raise RecipeError(f"{path} is damaged; go back to another checkpoint") from None
    if version != VERSION:
        raise RecipeError(
            f"{path} has version {version!r}, this Brickyard reads version {VERSION}; go on with the Brickyard that "
            "wrote it, or begin another run with its weights (initial_weights)"
        )
    return content
