"""What a person is told. A full disk, a reader that has gone: no reason to stop training."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def say(line: str) -> None:
    show(f"launch: {line}\n", sys.stderr)


def show(text: str, stream: TextIO | None = None) -> None:
    """Write to stdout, or another stream."""
    stream = stream or sys.stdout
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:  # nobody will ever read it
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError:
        pass
