"""Sizes of the published model, and that the counts are those of the modules."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from model.config import AttentionConfig, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.ffn_config import FFNConfig
from model.flops import count_parameters, training_flops_per_token


def _published() -> ModelConfig:
    values = json.loads(Path(__file__).with_name("dbrx_132b_config.json").read_text())
    attention, ffn = values["attn_config"], values["ffn_config"]
    attention.pop("model_type"), ffn.pop("model_type")
    names = ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size", "initializer_range")
    return ModelConfig(
        **{name: values[name] for name in names}, attn_config=AttentionConfig(**attention), ffn_config=FFNConfig(**ffn)
    )


def test_published_132b_model_on_the_meta_device():
    config = _published()
    with torch.device("meta"):
        model = DbrxForCausalLM(config)
    count = count_parameters(config)
    assert sum(p.numel() for p in model.parameters()) == count.total == 131_596_523_520
    assert round(count.active / 1e9, 1) == 36.5


def test_counts_are_those_of_the_modules_when_tied():
    config = ModelConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=50, tie_word_embeddings=True)
    with torch.device("meta"):
        model = DbrxForCausalLM(config)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total


def test_counts_are_those_of_the_modules_when_the_first_layers_are_dense():
    ffn = FFNConfig(ffn_hidden_size=24, first_k_dense_replace=2, dense_ffn_hidden_size=40)
    config = ModelConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=50, ffn_config=ffn)
    with torch.device("meta"):
        model = DbrxForCausalLM(config)
    count = count_parameters(config)
    assert sum(p.numel() for p in model.parameters()) == count.total
    assert count.dense == 2 * 3 * 32 * 40 and count.active == count.total - 3 * 3 * 32 * 24  # 3 of 4 experts idle


def test_dense_layers_cost_what_their_products_cost():
    ffn = FFNConfig(ffn_hidden_size=24, moe_num_experts=4, moe_top_k=2)
    config = ModelConfig(d_model=32, n_heads=4, n_layers=3, vocab_size=50, ffn_config=ffn)
    dense = replace(config, ffn_config=replace(ffn, first_k_dense_replace=1))
    routers = 6 * 32 * 4  # one layer's; the dense unit is as wide as the two experts that a token visits
    assert training_flops_per_token(config, 8) - training_flops_per_token(dense, 8) == routers


def test_flops_of_a_hand_counted_model():
    config = ModelConfig(
        d_model=8,
        n_heads=2,
        n_layers=1,
        vocab_size=10,
        attn_config=AttentionConfig(kv_n_heads=1),
        ffn_config=FFNConfig(ffn_hidden_size=4, moe_num_experts=3, moe_top_k=2),
    )
    products = 8 * 16 + 8 * 8 + 8 * 3 + 2 * 3 * 8 * 4 + 8 * 10  # Wqkv, out_proj, router, two experts, head
    attention = 2 * 8 * (1 + 2 + 3) / 3  # three positions meet 1, 2 and 3 keys, and as many values
    assert training_flops_per_token(config, 3) == 6 * (products + attention)
