"""The parameters that a rank holds and gathers, in numbers. `tests/train/test_memory.py` counts sharded models'."""

from __future__ import annotations

import math
from typing import NamedTuple

from train.memory.work import FP32, Work


class Unit(NamedTuple):
    """Parameters that FSDP2 gathers, and whose gradients it reduces, together; in numbers, not bytes."""

    whole: int  # gathered, with what fills uneven shards up
    held: int  # of rank 0, which has the most
    ranks: int  # that share it


def unit_of(shapes: list[tuple[int, int]], ranks: int) -> Unit:
    """Each parameter is cut into `ranks` shards by rows; the last ones may be shorter, or empty."""
    held = sum(math.ceil(rows / ranks) * columns for rows, columns in shapes)
    return Unit(held * ranks, held, ranks)


def root_unit(work: Work) -> Unit:
    """What lies around the blocks: embedding, head and last norm."""
    model = work.model
    matrices = 1 if model.tie_word_embeddings else 2
    return unit_of([(model.vocab_size, model.d_model)] * matrices + [(model.d_model, 1)], work.layout.shard)


def block_unit(work: Work, layer: int) -> Unit:
    """A block without its router and experts."""
    model, D = work.model, work.model.d_model
    shapes = [(D, 1), (D, 1), (D + 2 * model.attn_config.kv_n_heads * model.head_dim, D), (D, D)]
    if layer < model.first_moe_layer:
        dense = model.ffn_config.dense_width
        shapes += [(dense, D), (dense, D), (D, dense)]
    return unit_of(shapes, work.layout.shard)


def router_unit(work: Work) -> Unit:
    return unit_of([(work.model.ffn_config.moe_num_experts, work.model.d_model)], work.layout.shard)


def experts_unit(work: Work) -> Unit:
    """The experts of a layer that this rank computes, with the ranks that compute the same ones."""
    ffn = work.model.ffn_config
    rows = ffn.moe_num_experts // work.layout.ep * ffn.ffn_hidden_size
    return unit_of([(rows, work.model.d_model)] * 3, work.layout.efsdp)


def layer_units(work: Work, layer: int) -> list[Unit]:
    """In the order of their use."""
    units = [block_unit(work, layer)]
    return units if layer < work.model.first_moe_layer else [*units, router_unit(work), experts_unit(work)]


def parameter_bytes(work: Work) -> int:
    """Of rank 0's shards."""
    layers = (unit for layer in range(work.model.n_layers) for unit in layer_units(work, layer))
    return FP32 * (root_unit(work).held + sum(unit.held for unit in layers))
