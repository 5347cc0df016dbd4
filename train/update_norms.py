"""How large the weights are, and how far a step has moved them, by part of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from train.clipping import square_sums


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
    moved = directions([optimizer.state[weight] for weight in weights], group["eps"] * math.sqrt(bias2))
    squares = square_sums([tensor] for tensor in chain(weights, moved))
    each, columns = iter(squares), {}
    for what, factor in (("weight", 1.0), ("update", group["lr"] / bias1 * math.sqrt(bias2))):
        for part, parameters in parts.items():
            columns[f"optimizer/{what}_norm/{part}"] = factor * math.sqrt(sum(islice(each, len(parameters))))
    return columns


def directions(states: Sequence[Mapping[str, Tensor]], eps: float) -> Iterator[Tensor]:
    """Each parameter's update but for a factor that all have in common."""
    for state in states:
        yield state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(eps)
