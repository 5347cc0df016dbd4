"""The experts on the real MegaBlocks package: its dropless path with sort, Triton permutation kernels and grouped GLU.

MegaBlocks 0.10 expects two compiled extensions, neither of which builds with CUDA 13: `megablocks_ops` and
`grouped_gemm`. `megablocks_seams.py` puts PyTorch's own operations in their two places before MegaBlocks is imported,
where the extensions are absent. Import this module only where these experts are wanted: it imports Triton.
"""

from functools import partial

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.experts.megablocks_seams import install_seams
from model.precision import without_autocast

install_seams()

from megablocks.layers.arguments import Arguments  # noqa: E402
from megablocks.layers.dmoe import ParallelDroplessMLP  # noqa: E402


class MegaBlocksExperts(ParallelDroplessMLP):
    """Gated linear unit experts; see `model.experts` for the interface.

    The parameters mlp.w1, mlp.v1 and mlp.w2 are MegaBlocks' own. Its `forward` is left aside, because that also appends
    to a module-global list of load-balancing losses; what it computes is `forward_once`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(_arguments(config))
        self.mlp.register_parameter("w2", self.mlp._parameters.pop("w2"))  # w1, v1, w2: the order of `ExpertWeights`

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:  # type: ignore[override]
        """Returns y_ND, the weighted sum of the chosen experts' outputs for each token."""
        with without_autocast(x_ND):
            y_ND, _ = self.forward_once(x_ND[None], weights_NK.to(x_ND.dtype), experts_NK)
        return y_ND


def _arguments(config: ModelConfig) -> Arguments:
    """MegaBlocks' settings for one layer. The weights are drawn later, by `model.initialise`."""
    return Arguments(
        hidden_size=config.d_model,
        ffn_hidden_size=config.ffn_config.ffn_hidden_size,
        moe_num_experts=config.ffn_config.moe_num_experts,
        moe_top_k=config.ffn_config.moe_top_k,
        activation_fn=nn.functional.silu,
        bias=False,
        mlp_type="glu",
        mlp_impl="grouped",
        fp16=False,
        bf16=False,
        device=torch.get_default_device(),
        init_method=partial(nn.init.zeros_),
    )
