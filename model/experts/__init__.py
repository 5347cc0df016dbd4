"""Two implementations of the experts behind one interface, `Experts`."""

import torch

from model.config import ExpertsImplementation, ModelConfig
from model.experts.interface import Experts


def build_experts(config: ModelConfig) -> Experts:
    """The experts of one layer, uninitialised, by the implementation that the config names.

    Raises MissingPackageError, one sentence, if the config names a package that is not installed.
    """
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
