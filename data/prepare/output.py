"""The output folder appears whole or not at all."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data import manifest
from data.errors import DataError


@contextmanager
def unfinished_folder(output: Path) -> Iterator[Path]:
    """An empty folder beside `output`; renamed to `output` if the block ends well, removed if it does not.

    A kill at any moment leaves `output` as it was, or absent; what else it leaves, the next call removes.

    Raises:
        DataError: someone else is preparing the same output, or `output` holds something that is no dataset.
    """
    check_replaceable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.parent / f".{output.name}.unfinished"
    replaced = output.parent / f".{output.name}.replaced"
    with _lock(output):
        if replaced.exists() and not output.exists():
            replaced.rename(output)  # killed between the two renames below
        for leftover in (unfinished, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield unfinished
            if output.exists():
                output.rename(replaced)
            unfinished.rename(output)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def check_replaceable(output: Path) -> None:
    """Refuses to overwrite what `brickyard prepare` did not write.

    Raises:
        DataError: `output` is a file, or a folder that is neither empty nor a dataset.
    """
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / manifest.FILE).is_file()):
        raise DataError(f"output: {output} exists and is no prepared dataset; remove it or choose another folder")


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Held while preparing; the system lets go of it when the process ends, however it ends."""
    path = output.parent / f".{output.name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"output: another process is preparing {output}; wait for it or choose another folder"
            ) from None
        yield
