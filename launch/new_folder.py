"""A folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.errors import RecipeError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside OUT to write into; it takes OUT's name once all went well, and else is removed.

    OUT may be a link to where the folder is to be.

    Raises:
        RecipeError: OUT is there and is no empty folder, is one that nothing can take the name of, or can't be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is there already and is not empty; name another folder, or remove it")
    place = Path(os.path.realpath(out))
    if place == Path.cwd() or place.is_mount():
        raise RecipeError(f"{out} is the working directory, or has a disk of its own; name a new folder in it")
    partial = place.with_name(f".partial-{place.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(place)  # over an empty folder, too
    except OSError as error:
        raise RecipeError(f"{out} can't be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
