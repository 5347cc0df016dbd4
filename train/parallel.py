"""How the model is spread over ranks."""

from __future__ import annotations

import torch
from composer.core import Precision
from composer.distributed.activation_checkpointing import generate_composer_model_check_fn
from composer.distributed.fsdp2_utils import generate_composer_model_policy
from composer.distributed.prepare_distributed import parallelize_model
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from model.composer_model import DbrxComposerModel
from model.router import Router
from train.recipe import ParallelConfig, Recipe


def shard(model: DbrxComposerModel, precision: Precision, config: ParallelConfig | None = None) -> None:
    """Shard a model that is on the meta device over all ranks, by FSDP2, on one rank too: there is one path.

    It takes no memory yet: `model.initialise` says how to go on. The trainer would shard by itself, but would then take
    memory on GPUs only, and draw weights before it loads others.

    With activation checkpointing a block keeps its input alone, and computes the rest again in the backward pass, with
    the same dropout and jitter. Its routing comes from the first time only, so that nothing is counted twice.
    """
    again = config is not None and config.activation_checkpointing
    mesh = init_device_mesh(device_of_rank().type, (dist.get_world_size(),))
    for router in [module for module in model.modules() if isinstance(module, Router)]:
        # By itself and in fp32: with the rest of its block FSDP2 would give it weights in bf16.
        fully_shard(router, mesh=mesh)
    parallelize_model(
        model,
        FSDP2Config(device_mesh=mesh, activation_checkpointing=again),
        precision=precision,
        fsdp_wrap_policy=generate_composer_model_policy(model),
        activation_checkpointing_check_fn=generate_composer_model_check_fn(model) if again else None,
    )
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module._fsdp_wrap = False  # type: ignore[assignment]  # the trainer asks, and leaves it as it is


def device_of_rank() -> torch.device:
    """This rank's: its GPU where there are any."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def parallelism() -> dict[str, FSDP2Config]:
    """What the trainer must know of a model that is sharded: its checkpoints are one format on any number of ranks."""
    return {"fsdp": FSDP2Config(state_dict_type="sharded")}


def precision(recipe: Recipe) -> Precision:
    """Of what is computed; parameters, gradients and the optimizer's state are fp32."""
    return Precision.AMP_BF16 if recipe.precision == "bf16" else Precision.FP32


def parameter_bytes(model: DbrxComposerModel) -> int:
    """Bytes of the parameters that this rank holds; a model on the meta device will do."""
    parameters = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
