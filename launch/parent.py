"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
LEFT_ALONE = 1  # exit code


def die_with(parent: int) -> None:
    """In a new process: be sent SIGTERM when the parent is gone, even if it was killed; take no signals of its
    terminal."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(LEFT_ALONE)
