"""How much memory a rank takes at each moment of a training step that could be its worst, worked out from the recipe.

What is counted is what PyTorch allocates: shards, what FSDP2 gathers and reduces (it follows
torch/distributed/fsdp/_fully_shard), what autograd keeps, the loss head. Not counted: what a process takes for its
libraries (on a GPU CUDA's context and NCCL's buffers, 1 to 2 GiB), the gaps of PyTorch's allocator, what the dataloader
holds. Routing is taken as balanced: a rank that is sent more than its share of the token-expert pairs needs more.
`benchmarks/memory.py` holds it against ranks at work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from train.memory.activations import (
    attention_activations,
    kept_activations,
    layer_activations,
    outer_activations,
    routing_activations,
)
from train.memory.parameters import Unit, expert_shapes, layer_units, parameter_bytes, root_unit
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
    "staging": "copy of the shards that a checkpoint is written from",
}


class Moment(NamedTuple):
    """What is held at one moment of a step, in bytes, by the names in PARTS (staging is added by whoever saves)."""

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
    before = [0]
    for layer in range(work.model.n_layers):
        before.append(before[-1] + kept_activations(work, layer))
    for layer in reversed(range(work.model.n_layers)):
        around = around_block(work, layer)
        units = layer_units(work, layer)
        yield whole_block(work, layer, before[layer], around)
        if len(units) == 3:
            yield experts_reduction(work, layer, before[layer], around)
            units = units[:2]
        yield Moment(
            f"the reduction of block {layer}",
            {
                **around,
                "whole_gradients": around["whole_gradients"] + gathered(units, work),
                "messages": around["messages"] + reduction(units, work),
                "activations": before[layer] + work.stream,
            },
        )


def around_block(work: Work, layer: int) -> dict[str, int]:
    """What is held beside a block while it goes backward: embedding and head, gathered, with the head's gradient; the
    shards of the gradients of later blocks; and the weights of the block before, on their way."""
    later = (unit.held for n in range(layer + 1, work.model.n_layers) for unit in layer_units(work, n))
    kept = 0 if work.parallel.reshard_after_forward else blocks_gathered(work, layer)
    on_their_way = layer_units(work, layer - 1) if layer and work.parallel.reshard_after_forward else []
    return {
        "gradients": max(earlier_gradients(work), FP32 * sum(later)),
        "gathered": root_unit(work).whole * work.width + kept,
        "whole_gradients": work.model.vocab_size * work.model.d_model * work.width,
        "messages": sum(flat(unit, work) for unit in on_their_way),
    }


def whole_block(work: Work, layer: int, before: int, around: dict[str, int]) -> Moment:
    """The experts' gradients are worked out, and the rest of the block's activations are still there."""
    units = layer_units(work, layer)
    dense = layer < work.model.first_moe_layer
    ready = gathered(units, work) if dense else work.width * sum(map(math.prod, expert_shapes(work)))
    parts = {
        **around,
        "gathered": around["gathered"] + gathered(units, work),
        "whole_gradients": around["whole_gradients"] + ready,
        "activations": before + layer_activations(work, layer) + 2 * work.stream,
        "exchange": 0 if dense else exchange(work),
    }
    return Moment(f"the backward pass of block {layer}", parts)


def experts_reduction(work: Work, layer: int, before: int, around: dict[str, int]) -> Moment:
    """Where ranks share the experts out, their gradients are reduced before attention goes backward."""
    *rest, experts = layer_units(work, layer)
    left = attention_activations(work) + routing_activations(work) + work.normed + 2 * work.stream
    parts = {
        **around,
        "gathered": around["gathered"] + gathered(rest, work),
        "whole_gradients": around["whole_gradients"] + gathered([experts], work),
        "messages": around["messages"] + reduction([experts], work),
        "activations": before + left,
        "exchange": exchange(work),
    }
    return Moment(f"the reduction of the experts of block {layer}", parts)


def gathered(units: list[Unit], work: Work) -> int:
    """Parameters, or their gradients, whole."""
    return work.width * sum(unit.whole for unit in units)


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
    return sum(gathered(layer_units(work, layer), work) for layer in range(layers))


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
