"""How much memory a rank takes at each moment of a training step that could be its worst, worked out from the recipe.

What is counted is what PyTorch allocates: shards, what FSDP2 gathers and reduces (it follows
torch/distributed/fsdp/_fully_shard), what autograd keeps, the loss head. Not counted: what a process takes for its
libraries (on a GPU CUDA's context and NCCL's buffers, 1 to 2 GiB), the gaps of PyTorch's allocator, what the dataloader
holds. Routing is taken as balanced: a rank that is sent more than its share of the token-expert pairs needs more.
`benchmarks/memory.py` holds it against ranks at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from train.memory.activations import kept_activations, layer_activations, outer_activations
from train.memory.parameters import Unit, layer_units, parameter_bytes, root_unit
from train.memory.work import FP32, Work

PARTS = {
    "parameters": "parameters: fp32 shards",
    "optimizer": "AdamW: two fp32 averages of each",
    "gradients": "gradients: fp32 shards",
    "gathered": "gathered parameters of the layers at work",
    "whole_gradients": "their gradients until they are reduced",
    "messages": "buffers of gathers and reductions",
    "activations": "activations of a microbatch, and their gradients",
    "exchange": "token-expert pairs between ranks",
    "head": "loss head: a chunk of logits, its weight's gradient",
}


class Moment(NamedTuple):
    """What is held at one moment of a step, in bytes, by the names in PARTS."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def moments(work: Work) -> Iterator[Moment]:
    """Those at which memory peaks, in their order. With gradient accumulation, of the last microbatch."""
    always = {"parameters": parameter_bytes(work), "optimizer": 2 * parameter_bytes(work)}
    for name, parts in [*forward_end(work), *backward(work), root_reduction(work)]:
        yield Moment(name, {part: always.get(part, 0) + parts.get(part, 0) for part in PARTS})


def forward_end(work: Work) -> Iterator[Moment]:
    """All activations are there, and the loss head is at work: first the loss and its gradients, chunk by chunk."""
    root = root_unit(work)
    activations = outer_activations(work) + sum(kept_activations(work, n) for n in range(work.model.n_layers))
    weight = work.model.vocab_size * work.model.d_model
    product = weight * work.width if work.width != FP32 else 0  # of a chunk, before it is added in fp32
    chunk = chunk_rows(work) * work.model.vocab_size * (FP32 + work.width)
    held = {"gradients": earlier_gradients(work), "activations": activations + work.stream}
    kept = 0 if work.parallel.reshard_after_forward else blocks_gathered(work, work.model.n_layers)
    yield Moment(
        "the loss",
        {
            **held,
            "gathered": root.whole * work.width + kept,
            "messages": flat(layer_units(work, work.model.n_layers - 1)[-1], work),
            "head": weight * FP32 + product + chunk,
        },
    )
    # The head is gathered again where it was dropped, before it scales its gradients.
    again = flat(root, work) if work.parallel.reshard_after_forward else 0
    yield Moment(
        "gathering the head again",
        {**held, "gathered": root.whole * work.width + kept, "messages": again, "head": weight * FP32},
    )
    yield Moment(
        "the head's backward pass",
        {
            **held,
            "gathered": root.whole * work.width + kept,
            "messages": flat(layer_units(work, work.model.n_layers - 1)[0], work),
            "head": 2 * weight * FP32 + product,
        },
    )


def backward(work: Work) -> Iterator[Moment]:
    """Block by block, from the last to the first: activations go and gradients come."""
    model = work.model
    root = root_unit(work)
    around = root.whole * work.width  # embedding and head stay gathered until the end
    head_gradient = model.vocab_size * model.d_model * work.width
    before = [0]
    for layer in range(model.n_layers):
        before.append(before[-1] + kept_activations(work, layer))
    for layer in reversed(range(model.n_layers)):
        units = layer_units(work, layer)
        whole = sum(unit.whole for unit in units) * work.width
        done = sum(unit.held for later in range(layer + 1, model.n_layers) for unit in layer_units(work, later))
        gradients = max(earlier_gradients(work), FP32 * done)
        kept = 0 if work.parallel.reshard_after_forward else blocks_gathered(work, layer)
        following = flat(layer_units(work, layer - 1)[0], work) if layer else 0
        name = f"the backward pass of block {layer}"
        yield Moment(
            name,
            {
                "gradients": gradients,
                "gathered": around + whole + kept,
                "whole_gradients": head_gradient + units[-1].whole * work.width,
                "messages": following,
                "activations": before[layer] + layer_activations(work, layer) + 2 * work.stream,
                "exchange": exchange(work),
            },
        )
        yield Moment(
            f"the reduction of block {layer}",
            {
                "gradients": gradients,
                "gathered": around + kept,
                "whole_gradients": head_gradient + whole,
                "messages": following + reduction(units, work),
                "activations": before[layer] + work.stream,
            },
        )


def root_reduction(work: Work) -> Moment:
    """The end of the backward pass: the gradients of embedding and head are summed over the ranks."""
    root = root_unit(work)
    parts = {
        "gradients": parameter_bytes(work),
        "whole_gradients": root.whole * work.width,
        "messages": reduction([root], work),
    }
    return Moment("the reduction of embedding and head", parts)


def earlier_gradients(work: Work) -> int:
    """Of the microbatches before."""
    return parameter_bytes(work) if work.microbatches > 1 else 0


def blocks_gathered(work: Work, layers: int) -> int:
    """The first so many blocks, gathered."""
    return work.width * sum(unit.whole for layer in range(layers) for unit in layer_units(work, layer))


def flat(unit: Unit, work: Work) -> int:
    """The buffer that a unit is gathered into before it is copied to where it is used."""
    return unit.whole * work.width if unit.ranks > 1 else 0


def reduction(units: list[Unit], work: Work) -> int:
    """The buffer that gradients are summed over the ranks in, and this rank's share of the sum."""
    return work.reduce_width * sum(unit.whole + unit.held for unit in units)


def exchange(work: Work) -> int:
    """The gradients of the token-expert pairs, as they were sent and as they came."""
    if work.layout.ep == 1 or work.model.n_moe_layers == 0:
        return 0
    return work.slots * work.model.d_model * work.width


def chunk_rows(work: Work) -> int:
    """Tokens whose logits are held at a time, as in model/head.py."""
    return min(work.tokens, max(128, (2**27 if work.gpu else 2**21) // work.model.vocab_size))
