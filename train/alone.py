"""A run of one rank has nobody to add up with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from composer.utils import dist
from torch import Tensor


@contextmanager
def alone() -> Iterator[None]:
    """Where there is one rank, Composer's all_reduce, by which it and we add up over the ranks, does nothing. Gloo
    hands each message to a thread all the same, and waits for it: nine times a step."""
    all_reduce = dist.all_reduce
    if dist.get_world_size() == 1:
        dist.all_reduce = nothing_to_add
    try:
        yield
    finally:
        dist.all_reduce = all_reduce


def nothing_to_add(tensor: Tensor, reduce_operation: str = "SUM", group: object = None) -> None:
    """The tensor is its own sum, and its own maximum."""
