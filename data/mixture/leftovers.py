"""What runs that were killed have left in shared memory, found and removed.

Streaming numbers its blocks of shared memory (`000003_locals`, `000003_shard_states`, ...) and gives each dataset the
next free number. The blocks of a run that died by kill -9 stay; their numbers are never used again, and where they name
a cache folder, Streaming refuses to use that folder ("Reused local directory").
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streaming.base.constant import SHM_TO_CLEAN
from streaming.base.distributed import barrier, get_local_rank, maybe_init_dist
from streaming.base.shared import SharedMemory, prefix
from torch import distributed as dist

SHARED_MEMORY = Path("/dev/shm")
BLOCK = re.compile(rf"(?P<number>[0-9]{{6,}})_({'|'.join(SHM_TO_CLEAN)})")
F_SETSIG = 10  # from <fcntl.h>; Python's fcntl has no name for it


@contextmanager
def alone_on_this_machine() -> Iterator[None]:
    """Hold off other runs of this user that begin on this machine, for as long as this one opens its datasets.

    Streaming looks for a free number and takes it in two steps: of two runs that do so at once, one fails. And what one
    finds dead, another may just have begun to use.
    """
    if get_local_rank() != 0:
        yield
        return
    with (SHARED_MEMORY / f"brickyard-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def probes_closed() -> Iterator[None]:
    """Close the blocks that Streaming opens to see whether a number is taken. It keeps them until the process ends,
    which makes open files grow with the square of the datasets on the machine."""
    opened: list[SharedMemory] = []

    def remember(*arguments: Any) -> SharedMemory:
        opened.append(SharedMemory(*arguments))
        return opened[-1]

    prefix.SharedMemory = remember  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        prefix.SharedMemory = SharedMemory  # type: ignore[misc]
        for block in opened[:-1]:  # the last one is the dataset's own
            atexit.unregister(block.cleanup)
            block.cleanup()


@contextmanager
def number_of_leader() -> Iterator[None]:
    """In Streaming each rank looks for the free number by itself. Where another run ends meanwhile, they find different
    ones and give up; so all ranks of a machine take their leader's."""
    find = prefix._check_and_find_retrying

    def find_once(*arguments: Any, **options: Any) -> int:
        number = find(*arguments, **options) if get_local_rank() == 0 else -1
        if not dist.is_initialized():
            return number
        numbers = [number] * dist.get_world_size()
        dist.all_gather_object(numbers, number)
        return numbers[dist.get_rank() - get_local_rank()]

    prefix._check_and_find_retrying = find_once
    try:
        yield
    finally:
        prefix._check_and_find_retrying = find


def remove_dead_shared_memory() -> None:
    """Remove Streaming's blocks that no process on this machine has open. Every rank calls this together, its leader
    `alone_on_this_machine`."""
    initialised = maybe_init_dist()
    if get_local_rank() == 0:
        for block in dead_blocks():
            block.unlink(missing_ok=True)
    barrier()
    if initialised:
        dist.destroy_process_group()


def dead_blocks() -> list[Path]:
    """The blocks of each number of which none is open in any process."""
    by_number = defaultdict(list)
    for path in SHARED_MEMORY.glob("*_*"):
        if match := BLOCK.fullmatch(path.name):
            by_number[match["number"]].append(path)
    return [path for paths in by_number.values() if not any(map(is_open, paths)) for path in paths]


def is_open(path: Path) -> bool:
    """Whether any process has the file open or mapped, in whatever container; also where that can't be known.

    The kernel grants a write lease only to one who has a file all to itself.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:  # somebody else's, or gone
        return True
    try:
        fcntl.fcntl(file, F_SETSIG, signal.SIGURG)  # who opens it now makes the kernel send this, not a deadly SIGIO
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return False
    except OSError:
        return True
    finally:
        os.close(file)
