"""What makes PyTorch as fast on a CPU as it can be there."""

from __future__ import annotations

import ctypes
import os

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def settle_in() -> None:
    """Once in each process that computes on a CPU, before it does. On a GPU it would only hold memory."""
    if not torch.cuda.is_available():
        keep_freed_memory()


def keep_freed_memory() -> None:
    """A step frees what the next one asks for. glibc would give it back, and fault every page in anew, zeroed.

    Left alone where the user has settled this in MALLOC_* variables or GLIBC_TUNABLES, or the C library is another.
    """
    settled = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt and not settled:
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_MMAP_MAX, 0)  # all of it from the heap: what is mapped is given back however large the threshold
