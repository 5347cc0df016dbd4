"""Batches of a CurriculumDataset, read ahead by worker processes or read by this process as they are asked for."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from streaming import StreamingDataLoader
from torch import Tensor

from data.errors import DataError
from data.mixture.stream import CurriculumDataset

PREFETCH_FACTOR = 4  # batches that each worker has ready
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


class CurriculumLoader(StreamingDataLoader):
    """The dataset's batches as dicts of tensors, in the plan's order whatever the number of workers.

    Workers send a batch as plain bytes through a pipe. That is faster than torch's way, a new block of shared memory
    for each tensor, and asks nothing of /dev/shm, which is small in containers.

    Args:
        num_workers: processes that read; with none, this process reads.
        persistent_workers: keep the processes for the next time that this is iterated over.
        worker_init_fn: called in each process with its number.
    """

    def __init__(
        self,
        dataset: CurriculumDataset,
        num_workers: int = 0,
        persistent_workers: bool = False,
        worker_init_fn: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the dataset yields whole batches
            collate_fn=as_it_is,
            num_workers=num_workers,
            prefetch_factor=PREFETCH_FACTOR if num_workers else None,
            persistent_workers=persistent_workers,
            worker_init_fn=partial(start_worker, worker_init_fn),
        )

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        try:
            for batch in super().__iter__():
                yield {name: torch.from_numpy(column) for name, column in batch.items()}
        except DataError as error:  # from a worker it comes with the worker's traceback as its text
            kind = type(error)
            raise kind(str(error).rsplit(f"{kind.__name__}: ", 1)[-1].strip()) from None


def as_it_is(batch: Any) -> Any:
    """No collation."""
    return batch


def start_worker(then: Callable[[int], None] | None, worker: int) -> None:
    """Have this process end with its parent, even by kill -9, and call `then`."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if then:
        then(worker)
