"""The experts on the real MegaBlocks package: its dropless path with sort, Triton permutation kernels and grouped GLU,
and its own expert parallelism.

MegaBlocks 0.10 expects two compiled extensions, neither of which builds with CUDA 13: `megablocks_ops` and
`grouped_gemm`. `megablocks_seams.py` puts PyTorch's own operations in their two places before MegaBlocks is imported,
where the extensions are absent. Import this module only where these experts are wanted: it imports Triton.

Three things of the package are left aside. `ParallelDroplessMLP.forward` also appends to a module-global list of
load-balancing losses, and what it computes is `forward_once` or `parallel_forward_once`. The GLU's `forward` copies the
token counts to the CPU, which makes the CPU wait for the GPU in every layer. And its constructors draw all experts'
weights, several times over; here they are built on the meta device.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh

from model.config import ExpertsGemm, ModelConfig
from model.experts.gemm import GroupedGemm, choose_gemm, grouped_gemm
from model.experts.interface import Experts
from model.experts.megablocks_seams import install_seams
from model.experts.swiglu import swiglu, swiglu_backward
from model.experts.weights import NAMES, ExpertWeights, local_experts, shard_experts
from model.precision import without_autocast

install_seams()

import stk.ops  # noqa: E402
from megablocks.layers.activation_fn import act_fn  # noqa: E402
from megablocks.layers.arguments import Arguments  # noqa: E402
from megablocks.layers.dmoe import ParallelDroplessMLP  # noqa: E402
from megablocks.layers.glu import GroupedGLU, SparseGLU  # noqa: E402

LARGEST = 2**31  # MegaBlocks' kernels count the elements of [S, D] in 32 bits


class MegaBlocksExperts(ParallelDroplessMLP, Experts):
    """Gated linear unit experts; see `Experts` for the interface."""

    def __init__(self, config: ModelConfig) -> None:
        gemm = choose_gemm(config.experts_gemm)
        arguments = _arguments(config, "sparse" if gemm is ExpertsGemm.stk else "grouped")
        super().__init__(arguments)
        sparse = gemm is ExpertsGemm.stk
        glu: SparseGLU = _SparseGLU(arguments) if sparse else _GroupedGLU(arguments, grouped_gemm(gemm))
        weights = ExpertWeights(config)
        for name in NAMES:
            del glu._parameters[name]  # so that they stand in the order of `ExpertWeights`
            glu.register_parameter(name, getattr(weights, name))
        self.add_module("mlp", glu)

    def parallelise(self, ep_mesh: DeviceMesh) -> None:
        shard_experts(self.mlp, ep_mesh, self.num_experts)
        if ep_mesh.size() > 1:
            self.args.moe_expert_model_parallelism = True
            self.args.expert_parallel_group = ep_mesh.get_group()

    def forward(  # type: ignore[override]
        self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor
    ) -> tuple[Tensor, Tensor]:
        _expect_countable(experts_NK.numel(), x_ND.shape[1])
        parallel = self.args.moe_expert_model_parallelism
        compute = self.parallel_forward_once if parallel else self.forward_once
        with without_autocast(x_ND):
            y_ND, sent_E = compute(x_ND[None], weights_NK.to(x_ND.dtype), experts_NK)
        computed_E = self.mlp.computed_E if isinstance(self.mlp, _GroupedGLU) else sent_E
        return y_ND, computed_E.sum(dtype=torch.int64).to(x_ND.device, non_blocking=True)


class _GroupedGLU(GroupedGLU):
    """MegaBlocks' GLU on a grouped GEMM, with token counts left where they are and SwiGLU fused.

    computed_E: the rows of each expert in the last forward pass. The package lies between this and `MegaBlocksExperts`,
    so that they can't be returned to it.
    """

    computed_E: Tensor

    def __init__(self, arguments: Arguments, gemm: GroupedGemm) -> None:
        super().__init__(arguments)
        self.gemm = gemm

    def forward(self, x_SD: Tensor, tokens_per_expert_E: Tensor) -> Tensor:
        _expect_countable(*x_SD.shape)  # there may be more of them here than were sent
        weights_EFD = local_experts(self, self.args.moe_num_experts, x_SD.dtype)
        groups = self.gemm.groups(tokens_per_expert_E, x_SD.device)
        self.computed_E = tokens_per_expert_E
        return _GroupedSwiGLU.apply(x_SD, *weights_EFD, groups, self.gemm.multiply)


class _GroupedSwiGLU(torch.autograd.Function):
    """The nine grouped GEMMs of a GLU. The hidden activations are worked out again in the backward pass, where it costs
    nothing: their gradient's kernel has everything at hand."""

    @staticmethod
    def forward(
        ctx: Any, x_SD: Tensor, w1_EFD: Tensor, v1_EFD: Tensor, w2_EFD: Tensor, groups: Tensor, gmm: Any
    ) -> Tensor:
        gate_SF = gmm(x_SD, w1_EFD, groups, False, True)
        up_SF = gmm(x_SD, v1_EFD, groups, False, True)
        ctx.save_for_backward(x_SD, gate_SF, up_SF, w1_EFD, v1_EFD, w2_EFD, groups)
        ctx.gmm = gmm
        return gmm(swiglu(gate_SF, up_SF), w2_EFD, groups, False, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, gate_SF, up_SF, w1_EFD, v1_EFD, w2_EFD, groups = ctx.saved_tensors
        gmm, grad_out_SD = ctx.gmm, grad_out_SD.contiguous()
        grad_hidden_SF = gmm(grad_out_SD, w2_EFD, groups, False, True)
        hidden_SF, grad_gate_SF, grad_up_SF = swiglu_backward(grad_hidden_SF, gate_SF, up_SF)
        grad_w2_EFD = gmm(hidden_SF, grad_out_SD, groups, True, False)
        grad_w1_EFD = gmm(grad_gate_SF, x_SD, groups, True, False)
        grad_v1_EFD = gmm(grad_up_SF, x_SD, groups, True, False)
        grad_x_SD = gmm(grad_gate_SF, w1_EFD, groups, False, False)
        grad_x_SD += gmm(grad_up_SF, v1_EFD, groups, False, False)
        return grad_x_SD, grad_w1_EFD, grad_v1_EFD, grad_w2_EFD, None, None


class _SparseGLU(SparseGLU):
    """MegaBlocks' GLU on block-sparse products."""

    def forward(self, x_SD: Tensor, topology: stk.Matrix) -> Tensor:
        w1, v1, w2 = (w.flatten(0, 1) for w in local_experts(self, self.args.moe_num_experts, x_SD.dtype))
        gate, up = stk.ops.sdd(x_SD, w1.t(), topology), stk.ops.sdd(x_SD, v1.t(), topology)
        return stk.ops.dsd(stk.ops.mul(act_fn(gate, nn.functional.silu), up), w2)


def _expect_countable(slots: int, width: int) -> None:
    if slots * width >= LARGEST:
        limit = f"expected fewer than {LARGEST // width:,} token-expert pairs at a time at this width, found {slots:,}"
        raise ValueError(f"megablocks experts: {limit}; take smaller microbatches")


def _arguments(config: ModelConfig, implementation: str) -> Arguments:
    """MegaBlocks' settings for one layer. The weights are drawn later, by `model.initialise`."""
    return Arguments(
        hidden_size=config.d_model,
        ffn_hidden_size=config.ffn_config.ffn_hidden_size,
        moe_num_experts=config.ffn_config.moe_num_experts,
        moe_top_k=config.ffn_config.moe_top_k,
        activation_fn=nn.functional.silu,
        bias=False,
        mlp_type="glu",
        mlp_impl=implementation,
        fp16=False,
        bf16=False,
        device=torch.device("meta"),
        init_method=partial(nn.init.zeros_),
    )
