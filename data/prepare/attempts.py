"""Files that tasks write: a task that is tried again, or tried twice at once, writes the same bytes beside and renames
them over."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTEMPT = ".attempt-"  # begins the name of the folder that a task writes in


@contextmanager
def attempt(folder: Path) -> Iterator[Path]:
    """A folder of its own inside `folder`, to rename files out of; gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=ATTEMPT, dir=folder))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def remove_lost(folder: Path) -> None:
    """What tasks left that were killed."""
    for left in [*folder.rglob(f"{ATTEMPT}*")]:
        shutil.rmtree(left, ignore_errors=True)
