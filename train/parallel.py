"""How the model is spread over ranks: the meshes, and FSDP2 and expert parallelism on them."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import NamedTuple, cast

import torch
from composer.core import Precision
from composer.distributed.activation_checkpointing import generate_composer_model_check_fn
from composer.distributed.fsdp2 import create_mixed_precision_policy
from composer.distributed.fsdp2_utils import generate_composer_model_policy
from composer.distributed.prepare_distributed import parallelize_model
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config
from torch.distributed import distributed_c10d
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from model.block import Block
from model.composer_model import DbrxComposerModel
from model.dense import DenseFeedForward
from model.experts.interface import Experts
from model.router import Router
from train.layout import Layout
from train.recipe import ParallelConfig, Recipe


class Meshes(NamedTuple):
    """Views of one mesh of replicate x efsdp x ep ranks.

    Attributes:
        model: (shard) or, with replicas, (replicate, shard), where shard is efsdp x ep: all weights but the experts'.
        experts: (efsdp) or (replicate, efsdp): over which FSDP2 shards the experts that a rank keeps.
        ep: the ranks that share out the experts.
    """

    model: DeviceMesh
    experts: DeviceMesh
    ep: DeviceMesh


def build_meshes(layout: Layout, dist_timeout: float | None = None) -> Meshes:
    """The meshes of the world, which has as many ranks as the layout. A collective.

    Their groups wait for `dist_timeout` seconds; not told, as long as their backend does, whatever the world was told.
    """
    names = ("replicate", "efsdp", "ep")
    mesh = init_device_mesh(device_of_rank().type, (layout.replicate, layout.efsdp, layout.ep), mesh_dim_names=names)
    shard = mesh["efsdp", "ep"]._flatten("shard")
    if dist_timeout is not None:
        for group in (*mesh.get_all_groups(), shard.get_group()):
            distributed_c10d._set_pg_timeout(timedelta(seconds=dist_timeout), group)
    if layout.replicate == 1:
        return Meshes(shard, mesh["efsdp"], mesh["ep"])
    return Meshes(mesh["replicate", "shard"], mesh["replicate", "efsdp"], mesh["ep"])


def shard(
    model: DbrxComposerModel,
    precision: Precision,
    config: ParallelConfig | None = None,
    layout: Layout | None = None,
    dist_timeout: float | None = None,
) -> None:
    """Spread a model that is on the meta device over all ranks, on one rank too: there is one path.

    The layout is by default FSDP over all of them. The model takes no memory yet: `model.initialise` says how to go on.
    The trainer would shard by itself, but over one mesh only, and would take memory before it loads weights.

    With activation checkpointing a block keeps its input alone, and computes the rest again in the backward pass, with
    the same dropout and jitter. Its routing comes from the first time only, so that nothing is counted twice.
    """
    config = config or ParallelConfig()
    meshes = build_meshes(layout or Layout(1, dist.get_world_size(), 1), dist_timeout)
    if config.compile:
        compile_dense_parts(model)
    shard_apart(model, precision, config, meshes)
    again = config.activation_checkpointing
    parallelize_model(
        model,
        FSDP2Config(
            device_mesh=meshes.model,
            reshard_after_forward=config.reshard_after_forward,
            activation_checkpointing=again,
            mixed_precision=reductions(config),
        ),
        precision=precision,
        fsdp_wrap_policy=generate_composer_model_policy(model),
        activation_checkpointing_check_fn=generate_composer_model_check_fn(model) if again else None,
    )
    prefetch(model)
    for module in sharded(model):
        module._fsdp_wrap = False  # type: ignore[attr-defined]  # the trainer asks, and leaves it as it is


def shard_apart(model: DbrxComposerModel, precision: Precision, config: ParallelConfig, meshes: Meshes) -> None:
    """Shard what does not go with the rest of its block: routers, and experts that ranks share out."""
    for module in list(model.modules()):
        if isinstance(module, Router):
            # In fp32: with the rest of its block FSDP2 would give it weights in bf16.
            fully_shard(module, mesh=meshes.model, reshard_after_forward=config.reshard_after_forward)
        elif isinstance(module, Experts) and meshes.ep.size() > 1:
            module.parallelise(meshes.ep)
            fully_shard(
                module,
                mesh=meshes.experts,
                reshard_after_forward=config.reshard_after_forward,
                mp_policy=create_mixed_precision_policy(precision, reductions(config)),
            )


def prefetch(model: DbrxComposerModel) -> None:
    """Have each block's weights gathered while the one before it computes, and going backward the one after it.

    FSDP2 does so by itself as long as the CPU runs ahead of the GPU, but experts wait for the numbers of tokens that
    they are sent, and with them the CPU does.
    """
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for before, after in itertools.pairwise(blocks):
        cast(FSDPModule, before).set_modules_to_forward_prefetch(sharded(after))
        cast(FSDPModule, after).set_modules_to_backward_prefetch(sharded(before))


def sharded(module: torch.nn.Module) -> list[FSDPModule]:
    """The units of FSDP2 in a module: itself first, if it is one."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def compile_dense_parts(model: DbrxComposerModel, backend: str = "inductor") -> None:
    """Compile what has static shapes: the attention half of each block, and dense units. The experts have kernels of
    their own, and rows in numbers that change with every batch."""
    for module in list(model.modules()):
        if isinstance(module, Block):
            module.norm_attn_norm.compile(backend=backend)
        elif isinstance(module, DenseFeedForward):
            module.compile(backend=backend)


def reductions(config: ParallelConfig) -> str:
    """In Composer's words, in which precision gradients are summed over ranks."""
    return "PURE" if config.reduce_dtype == "bf16" else "DEFAULT"


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
