"""The experts' parameters: one layout, one set of names and one rule of gradient scale for every implementation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from model.config import ModelConfig

NAMES = ("w1", "v1", "w2")


class ExpertWeights(nn.Module):
    """w1 (gate), v1 (up) and w2 (down), each [n_experts * ffn_hidden_size, d_model]: the layout of MegaBlocks and of
    DBRX's Hugging Face weights. Expert e owns rows e * ffn_hidden_size up to (e + 1) * ffn_hidden_size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = config.ffn_config.moe_num_experts * config.ffn_config.ffn_hidden_size
        self.w1, self.v1, self.w2 = (nn.Parameter(torch.empty(rows, config.d_model)) for _ in NAMES)


def shard_experts(mlp: nn.Module, ep_mesh: DeviceMesh, n_experts: int) -> None:
    """Makes w1, v1 and w2 DTensors, sharded over the ranks of the mesh by expert: rank r keeps the r-th share.

    Values and device are kept, and nothing is sent: every rank must hold the same values, or none (the meta device).
    Raises ValueError if the mesh has more than one dimension or its size does not divide the number of experts.
    """
    if ep_mesh.ndim != 1:
        raise ValueError(f"expert parallelism: expected a mesh of one dimension, found {ep_mesh.ndim}")
    if n_experts % ep_mesh.size():
        expected = f"expected a divisor of moe_num_experts ({n_experts})"
        raise ValueError(f"expert parallelism: {expected} ranks, found {ep_mesh.size()}")
    for name in NAMES:
        whole = getattr(mlp, name)
        share = whole.detach().chunk(ep_mesh.size())[ep_mesh.get_local_rank()].clone()
        sharded = DTensor.from_local(share, ep_mesh, [Shard(0)], run_check=False)
        setattr(mlp, name, nn.Parameter(sharded, requires_grad=whole.requires_grad))


def local_experts(mlp: nn.Module, n_experts: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(w1, v1, w2) of the experts that this rank holds, each [E, F, D] in `dtype`, differentiable.

    Here, and nowhere else, the gradient of experts that `EP` ranks share out is multiplied by 1/EP. The rank that holds
    an expert sums its gradient over the tokens of all EP ranks, each of which took the mean over its own tokens only;
    every other parameter's gradient is averaged over the ranks, and so this one must be.
    """
    w1_EFD, v1_EFD, w2_EFD = (_local(getattr(mlp, name), n_experts).to(dtype) for name in NAMES)
    return w1_EFD, v1_EFD, w2_EFD


def _local(weight: Tensor, n_experts: int) -> Tensor:
    if not isinstance(weight, DTensor):
        return weight.view(n_experts, -1, weight.shape[-1])
    ranks = weight.device_mesh.size()
    share = weight.to_local().view(n_experts // ranks, -1, weight.shape[-1])
    return share if ranks == 1 else _ScaledGradient.apply(share, 1 / ranks)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by `scale`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None
