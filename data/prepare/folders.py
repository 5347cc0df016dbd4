"""The files of a folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from data.errors import DataError


def files_below(folder: Path) -> Iterator[Path]:
    """Each file in it and in the folders below, linked ones too; a folder is entered once, however links go round.

    `Path.rglob` passes over linked folders, and over those that can't be read, without a word.

    Raises:
        DataError: a folder can't be read.
    """
    entered = set()
    for here, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()  # of two ways to a folder the same is taken every time
        yield from (Path(here) / name for name in files)


def _fail(error: OSError) -> NoReturn:
    raise DataError(f"can't read the folder {error.filename} ({error.strerror})") from None
