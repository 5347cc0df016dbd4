"""The parts of the model, by which weights are decayed and gradients are watched."""

from __future__ import annotations

from torch import nn

from model.attention import GroupedQueryAttention
from model.config import PARTS
from model.dense import DenseFeedForward
from model.experts.interface import Experts
from model.head import LanguageModelHead
from model.router import Router

# What each part's modules are, the innermost counts: a norm inside a router would be one of the norms.
KINDS: dict[str, type[nn.Module]] = {
    "embedding": nn.Embedding,
    "attention": GroupedQueryAttention,
    "router": Router,
    "experts": Experts,
    "dense": DenseFeedForward,
    "norms": nn.LayerNorm,
    "head": LanguageModelHead,
}
assert tuple(KINDS) == PARTS


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of each part that has any, each once: a head that is tied to the embedding is part of that.

    However the model is sharded, all parameters of a part lie on one device mesh: the experts' on theirs, all others on
    that of the whole model.
    """
    parts: dict[str, list[nn.Parameter]] = {part: [] for part in PARTS}
    for name, parameter in model.named_parameters():
        parts[part_of(model, name)].append(parameter)
    return {part: parameters for part, parameters in parts.items() if parameters}


def part_of(model: nn.Module, name: str) -> str:
    """The part that the parameter of this name belongs to."""
    part, module = None, model
    for step in name.split(".")[:-1]:
        module = getattr(module, step)
        part = next((part for part, kind in KINDS.items() if isinstance(module, kind)), part)
    assert part is not None, f"{name} is of no part"
    return part
