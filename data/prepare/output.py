"""The output folder appears whole or not at all."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data import manifest
from data.errors import DataError

# Of a dataset's folder, and of one that a run has fetched a dataset to; hidden files go with it.
OURS = re.compile(
    r"manifest\.json|target_counts\.parquet|data_card\.(md|html)|tokenizer/[^/]+|quarantine/part-[^/]+"
    r"|(lineage/)?[^/]+/(train|heldout)/(index\.json|part-\d+\.parquet|shard\.[^/]+)"
)


@contextmanager
def locked(output: Path) -> Iterator[Path]:
    """Keeps others from preparing `output`; yields the folder for the work, .NAME.work beside it, made when needed.

    Raises:
        DataError: someone else is preparing the same output, or `output` holds something that is no dataset, or can't
            be made.
    """
    output = output.resolve()  # of a link to a folder, that folder
    try:
        check_replaceable(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        (output.parent / f".{output.name}.lock").open("a").close()
    except OSError as error:
        raise DataError(f"output: {output} can't be made ({error.strerror}); choose another folder") from None
    with _lock(output):
        if _replaced(output).exists() and not output.exists():
            _replaced(output).rename(output)  # killed between the two renames of `publish`
        shutil.rmtree(_replaced(output), ignore_errors=True)
        yield output.parent / f".{output.name}.work"


def publish(folder: Path, output: Path) -> None:
    """Renames `folder` to `output`, in the place of what was there: a kill leaves the one or the other, whole."""
    output = output.resolve()
    if output.exists():
        output.rename(_replaced(output))
    folder.rename(output)
    shutil.rmtree(_replaced(output), ignore_errors=True)


def check_replaceable(output: Path) -> None:
    """Refuses to overwrite what `brickyard prepare` did not write.

    Raises:
        DataError: `output` is a file, a mount point, or a folder that is neither empty nor a dataset and nothing else.
    """
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not _is_dataset(output)):
        raise DataError(f"output: {output} exists and is no prepared dataset; remove it or choose another folder")
    if os.path.ismount(output):
        raise DataError(f"output: {output} is a mount point, which can't be replaced; choose a folder in it")
    if foreign := next((name for name in _files(output) if not OURS.fullmatch(name)), None):  # a run has a manifest too
        raise DataError(
            f"output: {output} would be replaced, but {foreign} is not of a prepared dataset; "
            "move it away or choose another folder"
        )


def _is_dataset(folder: Path) -> bool:
    return (folder / manifest.FILE).is_file() and any(folder.glob("*/train"))


def _files(folder: Path) -> Iterator[str]:
    """The files that are not hidden, by their paths in the folder."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name).relative_to(folder).as_posix()


def _replaced(output: Path) -> Path:
    return output.parent / f".{output.name}.replaced"


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
