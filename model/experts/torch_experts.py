"""The experts in plain PyTorch: any device, dropless, and fast on a CPU.

Slots (token-expert pairs) are sorted by expert; then one expert after the other fetches its rows and takes them through
its gated linear unit while they are warm in cache. Forward and backward are written out as one autograd function,
because autograd over slices keeps and touches several times the memory; rows are fetched again in the backward pass
rather than kept. `benchmarks/experts.py` holds it against dense GEMMs of the same FLOPs and transformers' `DbrxFFN`.

On one core of an AMD EPYC, fp32, 16 experts, top 4, forward and backward took 1.00 to 1.10 times as long as the dense
GEMMs at d_model 256 and 512 and 1.08 and 1.16 times at 128; on two cores 1.08 to 1.15 and 1.20 to 1.25. What is left is
no GEMM: at 128 the three exponentials and the products beside them alone are 8% of the GEMMs' time. On a core of an
Intel Xeon, whose GEMMs are faster and whose memory is not, it was 1.06 to 1.08 at 1,024, 1.2 at 512 and 1.5 at 128:
there each MB that is not in the 2 MB of its own cache costs 1.6% of an expert's GEMMs, and working on fewer rows at a
time takes as much from the GEMMs as it gives the rest.
"""

from collections.abc import Iterator
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
from model.experts.vector_exp import keep_exp_fast
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

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> tuple[Tensor, Tensor]:
        weights_EFD = local_experts(self.mlp, self.n_experts, x_ND.dtype)
        slots = sort_slots(experts_NK, self.n_experts)

        computed = experts_NK.new_zeros(())

        def compute(x: Tensor, here: Slots) -> Tensor:
            computed.fill_(here.ends[-1])
            return _GroupedGLU.apply(x, *weights_EFD, here.rows(), here.place_NK, here.ends)

        with without_autocast(x_ND):
            group = self.ep_group
            out_SD = compute(x_ND, slots) if group is None else compute_remotely(x_ND, slots, compute, group)
            return combine(out_SD, weights_NK.to(x_ND.dtype), slots), computed


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
        keep_exp_fast(x_ND)
        gate_SF, up_SF = (x_ND.new_empty(len(row_S), w1_EFD.shape[1]) for _ in range(2))
        out_SD = x_ND.new_empty(len(row_S), x_ND.shape[1])
        slots = _by_expert(ends, row_S, gate_SF, up_SF, out_SD)
        weights = zip(w1_EFD.mT.unbind(), v1_EFD.mT.unbind(), w2_EFD.unbind(), strict=True)
        for (row, gate, up, out), (w1, v1, w2) in zip(slots, weights, strict=True):
            if len(row):
                x = x_ND.index_select(0, row)
                torch.mm(x, w1, out=gate)
                torch.mm(x, v1, out=up)
                torch.mm(nn.functional.silu(gate).mul_(up), w2, out=out)
        ctx.save_for_backward(x_ND, gate_SF, up_SF, w1_EFD, v1_EFD, w2_EFD, row_S, place_NK)
        ctx.ends = ends
        return out_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, gate_SF, up_SF, *weights_EFD, row_S, place_NK = ctx.saved_tensors
        keep_exp_fast(x_ND)
        grad_weights_EFD = [torch.empty_like(w) for w in weights_EFD]
        grad_x_SD = grad_out_SD  # each expert's rows take the place of rows already used, which nobody else holds
        slots = _by_expert(ctx.ends, row_S, gate_SF, up_SF, grad_out_SD, grad_x_SD)
        weights = zip(*(w.unbind() for w in (*weights_EFD, *grad_weights_EFD)), strict=True)
        for (row, gate, up, grad_out, grad_x), (w1, v1, w2, *grads) in zip(slots, weights, strict=True):
            if not len(row):
                torch._foreach_zero_(grads)
                continue
            x, (grad_w1, grad_v1, grad_w2) = x_ND.index_select(0, row), grads
            activated = nn.functional.silu(gate)
            torch.mm((activated * up).T, grad_out, out=grad_w2)
            grad_hidden = grad_out @ w2.T
            grad_up = activated.mul_(grad_hidden)
            grad_gate = torch.ops.aten.silu_backward(grad_hidden.mul_(up), gate)
            torch.mm(grad_gate.T, x, out=grad_w1)
            torch.mm(grad_up.T, x, out=grad_v1)
            torch.mm(grad_gate, w1, out=grad_x).addmm_(grad_up, v1)
        return sum_slots(grad_x_SD, place_NK), *grad_weights_EFD, None, None, None


def _by_expert(ends: list[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each expert's rows of the tensors; `ends` is where the rows of each expert end."""
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    return zip(*(tensor.split(lengths) for tensor in tensors), strict=True)
