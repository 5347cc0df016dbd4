"""Two implementations of the experts behind one interface: a module `experts` with parameters `mlp.w1`, `mlp.v1` and
`mlp.w2` (see `weights.py`), called as `experts(x_ND, weights_NK, experts_NK) -> y_ND`. Every token reaches every expert
that it chose; none is dropped."""

import torch
from torch import nn

from model.config import ExpertsImplementation, ModelConfig


def build_experts(config: ModelConfig) -> nn.Module:
    """The experts of one layer, uninitialised, by the implementation that the config names."""
    if _chosen(config) is ExpertsImplementation.torch:
        from model.experts.torch_experts import TorchExperts

        return TorchExperts(config)
    from model.experts.megablocks_experts import MegaBlocksExperts  # imports megablocks and triton, so only when chosen

    return MegaBlocksExperts(config)


def _chosen(config: ModelConfig) -> ExpertsImplementation:
    if config.experts is not ExpertsImplementation.auto:
        return config.experts
    on_gpu = torch.cuda.is_available() and config.fits_megablocks
    return ExpertsImplementation.megablocks if on_gpu else ExpertsImplementation.torch
