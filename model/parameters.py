"""Which tensors a model of a given config has."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from model.config import ExpertsImplementation, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.errors import ModelError


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The shape of each tensor by its name, in the model's order; takes no memory. Tied weights have both names."""
    with torch.device("meta"):
        model = DbrxForCausalLM(replace(config, experts=ExpertsImplementation.torch))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def check_shapes(found: Mapping[str, torch.Size], config: ModelConfig, where: str) -> None:
    """Holds the tensors that `where` has against those that its config asks for.

    Raises:
        ModelError: names the first that is missing, of another shape, or not of this architecture.
    """
    expected = parameter_shapes(config)
    missing = [name for name in expected if name not in found]
    if missing:
        others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise ModelError(f"{where} lacks the tensor {missing[0]}{others}, which its config asks for")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelError(f"{where}: {name}: its config asks for {[*shape]}, found {[*found[name]]}")
    unknown = [name for name in found if name not in expected]
    if unknown:
        raise ModelError(f"{where} has a tensor {unknown[0]}, for which its config has no place")
