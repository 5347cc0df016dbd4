"""The statistics of a step over all ranks."""

from __future__ import annotations

from dataclasses import fields

import torch
from composer.utils import dist

from model.statistics import StepStatistics


def sum_over_ranks(statistics: StepStatistics) -> StepStatistics:
    """The whole step's statistics on the host, summed over all ranks in one message (fp64 is exact for counts up to
    2^53). What is made of them there waits for a GPU no more."""
    if dist.get_world_size() == 1 and statistics.samples_by_domain.is_cpu:
        return statistics
    names = [field.name for field in fields(statistics)]
    tensors = [getattr(statistics, name) for name in names]
    flat = torch.cat([tensor.double().reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, reduce_operation="SUM")
    parts = flat.cpu().split([tensor.numel() for tensor in tensors])
    summed = [part.reshape(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
    return StepStatistics(**dict(zip(names, summed, strict=True)))
