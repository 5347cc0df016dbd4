"""How large the weights are, and how far a step has moved them, by part of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from train.clipping import local, squares, whole_sums


@torch.no_grad()
def update_norms(parts: Mapping[str, Sequence[nn.Parameter]], optimizer: Optimizer) -> dict[str, float]:
    """L2 norms over all ranks: of each part's weights, and of what the step just done has taken from them beside weight
    decay; nothing before the first step. A collective.

    The update is worked out again from AdamW's state, for one parameter at a time, so that no copy of the weights is
    kept.
    """
    if not optimizer.state:
        return {}
    weights = [parameter for parameters in parts.values() for parameter in parameters]
    group = optimizer.param_groups[0]  # the groups differ in weight decay only
    step = float(optimizer.state[weights[0]]["step"])
    bias1, bias2 = (1 - beta**step for beta in group["betas"])
    eps = group["eps"] * math.sqrt(bias2)
    moved = [square_of_direction(optimizer.state[weight], eps) for weight in weights]
    each = iter(whole_sums([*squares([local(weight) for weight in weights]), *moved], [*weights, *weights]))
    columns = {}
    for what, factor in (("weight", 1.0), ("update", group["lr"] / bias1 * math.sqrt(bias2))):
        for part, parameters in parts.items():
            columns[f"optimizer/{what}_norm/{part}"] = factor * math.sqrt(sum(islice(each, len(parameters))))
    return columns


def square_of_direction(state: Mapping[str, Tensor], eps: float) -> Tensor:
    """The square of the L2 norm of a parameter's update, of its shard on this rank, but for a factor that all have in
    common."""
    direction = local(state["exp_avg_sq"]).sqrt().add_(eps)
    torch.div(local(state["exp_avg"]), direction, out=direction)
    return squares([direction])[0]
