"""What autograd keeps of a microbatch from the forward to the backward pass, in bytes.

It follows what the modules of model/ save, tensor by tensor; `tests/train/test_memory.py` counts it.
"""

from __future__ import annotations

from model.config import AttentionImplementation
from train.memory.work import FP32, Work


def attention_activations(work: Work) -> int:
    """Of the first norm, attention and the residual stream after it."""
    model = work.model
    angles = (work.length if model.attend_across_documents else work.tokens) * model.head_dim * FP32
    clamped = 0 if model.attn_config.clip_qkv is None else projection(work)  # what the clamp was given
    product = written_out_attention(work) if is_written_out(work) else fused_attention(work)
    return work.normed + work.stream + clamped + angles + product + dropout_mask(work)


def is_written_out(work: Work) -> bool:
    """Whether all weights of attention are held. PyTorch's kernel for CPUs can't drop any of them out."""
    eager = work.model.attn_implementation is AttentionImplementation.eager
    return eager or bool(work.model.attn_config.attn_pdrop and not work.gpu)


def written_out_attention(work: Work) -> int:
    """Queries, keys and values for each head, the output, and the weights [T, T]: with dropout before and after it."""
    model = work.model
    weights = work.samples * model.n_heads * work.length**2
    copies = FP32 + (work.width if work.width != FP32 else 0) + (2 * work.width if model.attn_config.attn_pdrop else 0)
    mask = work.length**2 * (1 if model.attend_across_documents else work.samples)
    return 4 * work.stream + copies * weights + mask


def fused_attention(work: Work) -> int:
    """Queries, keys and values, the output, and a number for each query and head."""
    model = work.model
    queries_and_keys = projection(work) - work.tokens * model.attn_config.kv_n_heads * model.head_dim * work.width
    fp32_on_gpu = work.gpu and work.width == FP32  # whose kernel wants keys and values for each query head
    repeated = 2 * work.stream if fp32_on_gpu and model.attn_config.kv_n_heads < model.n_heads else 0
    by_document = not model.attend_across_documents and not work.gpu
    outputs = work.stream * (2 if by_document else 1)  # each document's, then all of them together
    # Values are a part of the projection, and keep the whole of it.
    return projection(work) + queries_and_keys + repeated + outputs + work.tokens * model.n_heads * FP32


def projection(work: Work) -> int:
    """Queries, keys and values."""
    model = work.model
    return work.tokens * (model.n_heads + 2 * model.attn_config.kv_n_heads) * model.head_dim * work.width


def dropout_mask(work: Work) -> int:
    """Of dropout on the residual stream: a byte for each number on a GPU, a factor on a CPU."""
    if not work.model.resid_pdrop:
        return 0
    return work.tokens * work.model.d_model if work.gpu else work.stream


def routing_activations(work: Work) -> int:
    """What is known of the routing until the loss: logits and probabilities, the chosen experts and their weights."""
    ffn = work.model.ffn_config
    return work.tokens * (2 * ffn.moe_num_experts * FP32 + ffn.moe_top_k * (8 + FP32))


def experts_activations(work: Work) -> int:
    """Of the second norm, the router and the experts."""
    ffn, D = work.model.ffn_config, work.model.d_model
    pair = D * work.width
    jitter = 2 * work.tokens * D * FP32 if ffn.moe_jitter_eps else 0
    rounded = work.stream if work.width != FP32 and not work.experts_on_gpu() else 0
    hidden = 2 * ffn.ffn_hidden_size * work.width
    if work.experts_on_gpu():
        numbers, rows = 3 * FP32, (4 if work.layout.ep > 1 else 2) * pair  # MegaBlocks keeps what it gathers
    else:
        numbers, rows = 3 * 8 * (2 if work.layout.ep > 1 else 1), (2 if work.layout.ep > 1 else 1) * pair
    norms = work.normed + work.tokens * D * FP32
    return norms + jitter + rounded + work.slots * (hidden + rows + numbers) + dropout_mask(work)


def dense_activations(work: Work) -> int:
    """Of the second norm and the dense unit of a block without experts."""
    hidden = 4 * work.tokens * work.model.ffn_config.dense_width * work.width
    rows = work.stream if work.width == FP32 else 2 * work.stream  # the norm's output, rounded for each of two products
    return work.normed + rows + hidden + dropout_mask(work)


def layer_activations(work: Work, layer: int) -> int:
    """Of a whole block."""
    dense = layer < work.model.first_moe_layer
    return attention_activations(work) + (
        dense_activations(work) if dense else experts_activations(work) + routing_activations(work)
    )


def kept_activations(work: Work, layer: int) -> int:
    """Of a block until its backward pass begins: with activation checkpointing its input, and its routing."""
    if not work.parallel.activation_checkpointing:
        return layer_activations(work, layer)
    return work.stream + (0 if layer < work.model.first_moe_layer else routing_activations(work))


def outer_activations(work: Work) -> int:
    """Of what lies around the blocks: tokens, targets and domains, and the last norm."""
    mask = dropout_mask(work) if work.model.emb_pdrop else 0
    return work.normed + mask + 3 * 8 * work.tokens
