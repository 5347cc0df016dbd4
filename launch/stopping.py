"""`brickyard launch stop` reaches a launcher by a file in the run's folder: taking it away says that it is heeded."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

HEEDED_WITHIN = 60.0  # seconds in which a launcher sees that its run is to stop


def told_to_stop(file: Path) -> bool:
    """Heed a wish, if there is one. A folder that can't be reached just now has none; storage may come back."""
    with suppress(OSError):
        file.unlink()
        return True
    return False


def forget_old_wish(file: Path) -> None:
    """Of somebody who waits no longer for it to be heeded. A newer one may be meant for the launch that begins."""
    with suppress(OSError):
        if time.time() - file.stat().st_mtime > HEEDED_WITHIN:
            file.unlink()
