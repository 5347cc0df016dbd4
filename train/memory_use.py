"""The memory that a rank takes."""

from __future__ import annotations

import psutil
import torch


def memory_use(process: psutil.Process) -> dict[str, int]:
    """The `memory/` columns of a step's row, of this rank, in bytes; peaks are those since it was last asked.

    `process` is this one, which to look up anew in every step would take longer than all the rest.
    """
    columns = {"memory/resident": process.memory_info().rss}
    if torch.cuda.is_available():
        found = torch.cuda.memory_stats()
        torch.cuda.reset_peak_memory_stats()
        columns["memory/peak_allocated"] = found["allocated_bytes.all.peak"]
        columns["memory/peak_reserved"] = found["reserved_bytes.all.peak"]
        columns["memory/allocation_retries"] = found["num_alloc_retries"]
    return columns
