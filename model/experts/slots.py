"""Slots (token-expert pairs) in order of their experts, and the way back from them to tokens."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CACHED = 1024  # slots that are worked on at a time where several passes follow one another


class Slots(NamedTuple):
    """Where the rows of a tensor [N, D], each wanted K times, stand once they are sorted by expert."""

    order_S: Tensor  # int64: slot s is pair order_S[s] of the N * K, of row order_S[s] // K
    place_NK: Tensor  # int64, the inverse: where each row's pairs went
    ends: list[int]  # where each expert's slots end

    def rows(self) -> Tensor:
        """int64 [S]: the row that each slot is of."""
        return self.order_S // self.place_NK.shape[1]


def sort_slots(experts_NK: Tensor, n_experts: int) -> Slots:
    """Sorts the pairs by expert, stably: by row within an expert. Waits for the device, to know `ends`."""
    sorted_S, order_S = experts_NK.flatten().to(torch.int16).sort(stable=True)
    ends_E = torch.searchsorted(sorted_S, torch.arange(n_experts, device=sorted_S.device), right=True)
    number_S = torch.arange(len(order_S), device=order_S.device)
    place_NK = torch.empty_like(order_S).scatter_(0, order_S, number_S).view(experts_NK.shape)
    return Slots(order_S, place_NK, ends_E.tolist())


def spread(x_ND: Tensor, slots: Slots) -> Tensor:
    """[S, D]: a copy of its row for each slot. Its gradient is a sum over each row's slots."""
    return _Spread.apply(x_ND, slots.rows(), slots.place_NK)


def combine(x_SD: Tensor, weights_NK: Tensor, slots: Slots) -> Tensor:
    """[N, D]: the weighted sum of each row's slots."""
    return _Combine.apply(x_SD, weights_NK, slots.order_S, slots.place_NK)


def sum_slots(x_SD: Tensor, place_NK: Tensor, weights_NK: Tensor | None = None) -> Tensor:
    """[N, D]: for each row the (weighted) sum of its slots, in one pass."""
    return nn.functional.embedding_bag(place_NK, x_SD, mode="sum", per_sample_weights=weights_NK)


class _Spread(torch.autograd.Function):
    """Written out because autograd would add the rows up one by one, with `index_add_`."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, row_S: Tensor, place_NK: Tensor) -> Tensor:
        ctx.save_for_backward(place_NK)
        return x_ND.index_select(0, row_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_SD: Tensor) -> tuple[Tensor, None, None]:
        (place_NK,) = ctx.saved_tensors
        return sum_slots(grad_SD, place_NK), None, None


class _Combine(torch.autograd.Function):
    """Written out because `embedding_bag` knows the gradient of its weights only where they are fp32 or fp64."""

    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, weights_NK: Tensor, order_S: Tensor, place_NK: Tensor) -> Tensor:
        ctx.save_for_backward(x_SD, weights_NK, order_S, place_NK)
        return sum_slots(x_SD, place_NK, weights_NK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_SD, weights_NK, order_S, place_NK = ctx.saved_tensors
        weight_S = weights_NK.flatten().index_select(0, order_S)
        grad_SD, grad_weight_S = torch.empty_like(x_SD), torch.empty_like(weight_S)
        row_S = order_S // weights_NK.shape[1]
        parts = zip(*(t.split(CACHED) for t in (row_S, x_SD, weight_S, grad_SD, grad_weight_S)), strict=True)
        for row, x, weight, grad, grad_weight in parts:
            torch.index_select(grad_ND, 0, row, out=grad)
            torch.linalg.vecdot(grad, x, out=grad_weight)
            grad.mul_(weight[:, None])
        return grad_SD, grad_weight_S.index_select(0, place_NK.flatten()).view(place_NK.shape), None, None
