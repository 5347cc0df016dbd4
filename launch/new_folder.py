"""A folder that is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.errors import RecipeError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside OUT to write into; it takes OUT's name once all went well, and else is removed.

    Raises:
        RecipeError: OUT is there and is no empty folder, or can't be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} is there already and is not empty; name another folder, or remove it")
    partial = out.absolute().with_name(f".partial-{out.absolute().name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(out)  # over an empty folder, too
    except OSError as error:
        raise RecipeError(f"{out} can't be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
