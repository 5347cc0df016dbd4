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


def layer_units(work: Work, layer: int) -> list[Unit]:
    """In the order of their use, as `train/parallel.py` shards them: experts go with the rest of their block, unless
    ranks share them out."""
    model, D, shard = work.model, work.model.d_model, work.layout.shard
    block = [(D, 1), (D, 1), (D + 2 * model.attn_config.kv_n_heads * model.head_dim, D), (D, D)]
    if layer < model.first_moe_layer:
        dense = model.ffn_config.dense_width
        return [unit_of([*block, (dense, D), (dense, D), (D, dense)], shard)]
    router = unit_of([(model.ffn_config.moe_num_experts, D)], shard)
    if work.layout.ep == 1:
        return [unit_of(block + expert_shapes(work), shard), router]
    return [unit_of(block, shard), router, unit_of(expert_shapes(work), work.layout.efsdp)]


def expert_shapes(work: Work) -> list[tuple[int, int]]:
    """Of the weights of those experts that a rank computes."""
    ffn = work.model.ffn_config
    rows = ffn.moe_num_experts // work.layout.ep * ffn.ffn_hidden_size
    return [(rows, work.model.d_model)] * 3


def parameter_bytes(work: Work) -> int:
    """Of rank 0's shards."""
    layers = (unit for layer in range(work.model.n_layers) for unit in layer_units(work, layer))
    return FP32 * (root_unit(work).held + sum(unit.held for unit in layers))
