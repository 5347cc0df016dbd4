"""The experts in plain PyTorch: any device, dropless, and fast on a CPU.

Slots (token-expert pairs) are sorted by expert; then one expert after the other fetches its rows and takes them through
its gated linear unit while they are warm in cache. Forward and backward are written out as one autograd function,
because autograd over slices keeps and touches several times the memory; rows are fetched again in the backward pass
rather than kept. `benchmarks/experts.py` holds it against dense GEMMs of the same FLOPs and transformers' `DbrxFFN`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from model.config import ModelConfig
from model.experts.dispatch import compute_remotely
from model.experts.interface import Experts
from model.experts.slots import Slots, combine, sort_slots, sum_slots
from model.experts.weights import ExpertWeights, local_experts, shard_experts
from model.precision import without_autocast


class TorchExperts(Experts):
    """Gated linear unit experts; see `Experts` for the interface."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_experts = config.ffn_config.moe_num_experts
        self.mlp = ExpertWeights(config)
        self.ep_group: dist.ProcessGroup | None = None

    def parallelise(self, ep_mesh: DeviceMesh) -> None:
        shard_experts(self.mlp, ep_mesh, self.n_experts)
        self.ep_group = ep_mesh.get_group() if ep_mesh.size() > 1 else None

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        weights_EFD = local_experts(self.mlp, self.n_experts, x_ND.dtype)
        slots = sort_slots(experts_NK, self.n_experts)

        def compute(x: Tensor, here: Slots) -> Tensor:
            return _GroupedGLU.apply(x, *weights_EFD, here.rows(), here.place_NK, here.ends)

        with without_autocast(x_ND):
            group = self.ep_group
            out_SD = compute(x_ND, slots) if group is None else compute_remotely(x_ND, slots, compute, group)
            return combine(out_SD, weights_NK.to(x_ND.dtype), slots)


class _GroupedGLU(torch.autograd.Function):
    """(silu(x @ w1.T) * (x @ v1.T)) @ w2 for each slot, with its expert's weights."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        w1_EFD: Tensor,
        v1_EFD: Tensor,
        w2_EFD: Tensor,
        row_S: Tensor,
        place_NK: Tensor,
        ends: list[int],
    ) -> Tensor:
        gate_SF, up_SF = (x_ND.new_empty(len(row_S), w1_EFD.shape[1]) for _ in range(2))
        out_SD = x_ND.new_empty(len(row_S), x_ND.shape[1])
        for expert, rows in _rows_by_expert(ends):
            x = x_ND.index_select(0, row_S[rows])
            torch.mm(x, w1_EFD[expert].T, out=gate_SF[rows])
            torch.mm(x, v1_EFD[expert].T, out=up_SF[rows])
            torch.mm(nn.functional.silu(gate_SF[rows]).mul_(up_SF[rows]), w2_EFD[expert], out=out_SD[rows])
        ctx.save_for_backward(x_ND, gate_SF, up_SF, w1_EFD, v1_EFD, w2_EFD, row_S, place_NK)
        ctx.ends = ends
        return out_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate_SF, up_SF, w1_EFD, v1_EFD, w2_EFD, row_S, place_NK = ctx.saved_tensors
        grad_x_SD = torch.empty_like(grad_out_SD)
        grad_w1_EFD, grad_v1_EFD, grad_w2_EFD = (_zeros_where_empty(w, ctx.ends) for w in (w1_EFD, v1_EFD, w2_EFD))
        for expert, rows in _rows_by_expert(ctx.ends):
            x, gate, up, grad_out = x_ND.index_select(0, row_S[rows]), gate_SF[rows], up_SF[rows], grad_out_SD[rows]
            activated = nn.functional.silu(gate)
            torch.mm((activated * up).T, grad_out, out=grad_w2_EFD[expert])
            grad_hidden = grad_out @ w2_EFD[expert].T
            grad_up = activated.mul_(grad_hidden)
            grad_gate = torch.ops.aten.silu_backward(grad_hidden.mul_(up), gate)
            torch.mm(grad_gate.T, x, out=grad_w1_EFD[expert])
            torch.mm(grad_up.T, x, out=grad_v1_EFD[expert])
            torch.mm(grad_gate, w1_EFD[expert], out=grad_x_SD[rows]).addmm_(grad_up, v1_EFD[expert])
        return sum_slots(grad_x_SD, place_NK), grad_w1_EFD, grad_v1_EFD, grad_w2_EFD, None, None, None


def _rows_by_expert(ends: list[int]) -> list[tuple[int, slice]]:
    """(expert, its rows) for each expert that has any; `ends` is where the rows of each expert end."""
    starts = [0, *ends[:-1]]
    return [(e, slice(start, end)) for e, (start, end) in enumerate(zip(starts, ends, strict=True)) if end > start]


def _zeros_where_empty(like_EFD: Tensor, ends: list[int]) -> Tensor:
    """A gradient to be filled in for the experts that have rows, already 0 for those that have none."""
    gradient_EFD = torch.empty_like(like_EFD)
    busy = {expert for expert, _ in _rows_by_expert(ends)}
    for expert in set(range(len(ends))) - busy:
        gradient_EFD[expert].zero_()
    return gradient_EFD
