"""What a checkpoint says of itself: the model's config and the tokenizer, so that it can be used wherever it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.manifest import AGAIN, Manifest
from data.remote import fetch_tokenizer
from data.tokenizer import Tokenizer
from model.config import ModelConfig
from train.checkpoints.names import newest_checkpoint
from train.errors import RecipeError
from train.reader import RecipeSource, read_recipe, to_yaml
from train.recipe import DatasetConfig

METADATA = ".metadata"  # torch's index of the tensors, in every checkpoint
MODEL = "model.yaml"
TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Contents:
    """Whose weights they are."""

    model: ModelConfig
    tokenizer: Tokenizer | None  # None: imported from a folder that had none

    def write(self, checkpoint: Path) -> None:
        """Puts it into a checkpoint's folder."""
        (checkpoint / MODEL).write_text(to_yaml(self.model))
        if self.tokenizer is not None:
            self.tokenizer.save(checkpoint / TOKENIZER)


def read_contents(checkpoint: Path) -> Contents:
    """What `write` put there.

    Raises:
        RecipeError: it is not there, or damaged.
        DataError: the tokenizer is damaged.
    """
    tokenizer = checkpoint / TOKENIZER
    return Contents(read_model(checkpoint), Tokenizer.load(tokenizer) if tokenizer.exists() else None)


def read_model(checkpoint: Path) -> ModelConfig:
    """The model's config alone.

    Raises:
        RecipeError: it is not there, or damaged.
    """
    path = checkpoint / MODEL
    if not path.exists():
        raise RecipeError(f"{path} is missing: an older Brickyard wrote this checkpoint; train on to write a new one")
    return read_recipe(ModelConfig, RecipeSource(path))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means: `path` itself, or the newest one of the run at `path`.

    Raises:
        RecipeError: there is none.
    """
    if (path / METADATA).exists():
        return path
    if not path.is_dir():
        raise RecipeError(f"{path}: no such folder; name a run's folder, such as runs/demo, or a checkpoint in it")
    if (path / "config.json").exists():
        raise RecipeError(f"{path} is a Hugging Face folder; `brickyard import {path} OUT` makes a checkpoint of it")
    checkpoint = newest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise RecipeError(f"{path} is no checkpoint, and no run that has saved one")
    return checkpoint


def dataset_tokenizer(dataset: DatasetConfig, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a dataset; fetched, where that lies at a remote.

    Raises:
        DataError: it is missing, damaged, or not the one that the manifest names.
    """
    folder = Path(dataset.path)
    if dataset.remote is not None:
        fetch_tokenizer(dataset.remote, folder, manifest)
    tokenizer = Tokenizer.load(folder / manifest.tokenizer.folder)
    if tokenizer.fingerprint != manifest.tokenizer.fingerprint:
        where = folder / manifest.tokenizer.folder
        raise DataError(f"{where} is not the tokenizer that the dataset was prepared with; {AGAIN}")
    return tokenizer
