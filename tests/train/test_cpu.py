"""A process that has settled in keeps its freed memory."""

import ctypes
import os
import platform
import resource
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from train.cpu import settle_in

SIZE = 2**27  # bytes: above any threshold of glibc's own


def _count_faults(_: int, file: Path) -> None:
    settle_in()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    faults = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        memory = libc.malloc(SIZE)
        libc.memset(memory, 1, SIZE)
        libc.free(memory)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    torch.save(faults, file)


def _faults(file: Path) -> list[int]:
    mp.start_processes(_count_faults, args=(file,), start_method="fork")
    return torch.load(file)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by rules of its own")
def test_freed_memory_is_kept_unless_the_user_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    huge_pages = SIZE // 2**21  # at the least one fault for each
    first, *later = _faults(tmp_path / "kept")
    assert first >= 0.9 * huge_pages
    assert max(later) < 0.1 * huge_pages
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert min(_faults(tmp_path / "given back")) >= 0.9 * huge_pages
