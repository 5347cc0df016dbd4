"""Gradient clipping by the norm over all parameters, which also tells what the norm was."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, islice
from operator import truediv

import torch
from composer import Callback, Logger, State
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate


class GradientClipping(Callback):
    """Scales gradients down so that their global L2 norm is at most `limit` (Pascanu et al. 2013).

    Composer's own fails on parameters of several meshes and keeps the norm to itself.

    Args:
        parts: the model's parameters, by part.

    Attributes:
        norm: of the last step's gradients before clipping.
        norms: of each part's.
    """

    def __init__(self, limit: float | None, parts: Mapping[str, Sequence[nn.Parameter]]) -> None:
        self.limit = limit
        self.parts = parts
        self.norm = 0.0
        self.norms: dict[str, float] = {}

    @torch.no_grad()
    def after_train_batch(self, state: State, logger: Logger) -> None:
        gradients = [[p.grad for p in parameters if p.grad is not None] for parameters in self.parts.values()]
        squares = square_sums(gradients)
        self.norm = math.sqrt(sum(squares))
        self.norms = dict(zip(self.parts, map(math.sqrt, squares), strict=True))
        if self.limit is not None and self.norm > self.limit:
            torch._foreach_mul_(
                [local(gradient) for part in gradients for gradient in part], self.limit / (self.norm + 1e-6)
            )


def square_sums(groups: Iterable[Iterable[Tensor]]) -> list[float]:
    """For each group of tensors the sum of their squares, over the shards of all ranks.

    The same on every rank, to the bit. A collective, as `whole_sums`.
    """
    parts = [list(group) for group in groups]
    tensors = list(chain.from_iterable(parts))
    whole = iter(whole_sums(squares([local(tensor) for tensor in tensors]), tensors))
    return [sum(islice(whole, len(part))) for part in parts]


def whole_sums(sums: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[float]:
    """The sums over the whole of each tensor, of whose shard on this rank `sums` are.

    Tensors may be sharded over different meshes, as long as each mesh has all ranks. A collective of one message; waits
    for the device once.
    """
    ranks = dist.get_world_size()
    summed = torch.stack([*sums]).double()
    dist.all_reduce(summed, reduce_operation="SUM")
    return list(map(truediv, summed.tolist(), (_holders(tensor, ranks) for tensor in tensors)))


def squares(shards: list[Tensor]) -> list[Tensor]:
    """The sum of each one's squares. On a CPU a dot product is twice as fast as torch's norm, and fifty times as exact:
    2e-7 off for a million numbers in fp32, where the norm is 1e-5 off."""
    if shards[0].is_cpu:
        return [torch.dot(flat, flat) for flat in (shard.flatten() for shard in shards)]
    return [norm.square() for norm in torch._foreach_norm(shards)]


def _holders(tensor: Tensor, ranks: int) -> int:
    """How many of the ranks hold each of its numbers."""
    return _copies(tensor.placements, tensor.device_mesh) if isinstance(tensor, DTensor) else ranks


@cache
def _copies(placements: tuple[Placement, ...], mesh: DeviceMesh) -> int:
    sizes = zip(placements, mesh.shape, strict=True)
    return math.prod(size for placement, size in sizes if isinstance(placement, Replicate))


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of it, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
