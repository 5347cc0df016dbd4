"""The config reads as an OmegaConf structured config and names every impossible value."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import DbrxConfig
from transformers.modeling_rope_utils import RopeParameters as TransformersRope
from transformers.models.dbrx.configuration_dbrx import DbrxAttentionConfig, DbrxFFNConfig

from model.config import AttentionConfig, AttentionImplementation, ExpertsImplementation, ModelConfig, check_config
from model.ffn_config import FFNConfig, LossScope
from model.rope_config import RopeParameters, RopeType

GOOD = ModelConfig(d_model=64, n_heads=4, attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0))
REFERENCE = Path(__file__).with_name("dbrx_132b_config.json")


def _attention(**values):
    return replace(GOOD, attn_config=replace(GOOD.attn_config, **values))


def _rope(kind, **values):
    return replace(GOOD, rope_parameters=RopeParameters(RopeType(kind), **values))


def _ffn(**values):
    return replace(GOOD, ffn_config=replace(GOOD.ffn_config, **values))


@pytest.mark.parametrize(
    ("config", "key", "found"),
    [
        (replace(GOOD, d_model=0), "d_model", "found 0"),
        (replace(GOOD, n_layers=-1), "n_layers", "found -1"),
        (replace(GOOD, vocab_size=0), "vocab_size", "found 0"),
        (replace(GOOD, max_seq_len=0), "max_seq_len", "found 0"),
        (replace(GOOD, n_heads=0), "n_heads", "found 0"),
        (replace(GOOD, n_heads=6), "n_heads", "divisor of d_model (64), found 6"),
        (replace(GOOD, d_model=12), "n_heads", "12 / 4 = 3"),
        (replace(GOOD, initializer_range=0.0), "initializer_range", "found 0.0"),
        (replace(GOOD, resid_pdrop=1.0), "resid_pdrop", "found 1.0"),
        (replace(GOOD, emb_pdrop=-0.1), "emb_pdrop", "found -0.1"),
        (_attention(kv_n_heads=3), "attn_config.kv_n_heads", "divisor of n_heads (4), found 3"),
        (_attention(kv_n_heads=8), "attn_config.kv_n_heads", "found 8"),
        (_attention(kv_n_heads=0), "attn_config.kv_n_heads", "found 0"),
        (_attention(clip_qkv=0.0), "attn_config.clip_qkv", "found 0.0"),
        (_attention(clip_qkv=float("nan")), "attn_config.clip_qkv", "found nan"),
        (_attention(rope_theta=-1.0), "attn_config.rope_theta", "found -1.0"),
        (_attention(attn_pdrop=2.0), "attn_config.attn_pdrop", "found 2.0"),
        (_rope("default", rope_theta=-1.0), "rope_parameters.rope_theta", "found -1.0"),
        (_rope("default", factor=2.0), "rope_parameters.factor", "no such key with rope_type default"),
        (_rope("linear"), "rope_parameters.factor", "at least 1 with rope_type linear, found None"),
        (_rope("linear", factor=0.5), "rope_parameters.factor", "found 0.5"),
        (_rope("linear", factor=2.0, beta_fast=3.0), "rope_parameters.beta_fast", "does not use it, found 3.0"),
        (_rope("linear", factor=2.0, truncate=False), "rope_parameters.truncate", "found False"),
        (_rope("yarn", factor=2.0, beta_fast=1.0), "rope_parameters.beta_fast", "above beta_slow (1), found 1"),
        (_rope("yarn", factor=2.0, attention_factor=0.0), "rope_parameters.attention_factor", "found 0.0"),
        (_rope("llama3", factor=2.0, high_freq_factor=4.0), "rope_parameters.low_freq_factor", "found nothing"),
        (
            _rope("llama3", factor=2.0, low_freq_factor=4.0, high_freq_factor=1.0),
            "rope_parameters.high_freq_factor",
            "above low_freq_factor (4), found 1",
        ),
        (
            replace(GOOD, d_model=4 * 258, attn_implementation=AttentionImplementation.flash_attention_2),
            "n_heads",
            "1032 / 4 = 258",
        ),
        (_ffn(moe_top_k=5), "ffn_config.moe_top_k", "at most moe_num_experts (4), found 5"),
        (_ffn(moe_top_k=0), "ffn_config.moe_top_k", "found 0"),
        (_ffn(moe_num_experts=0), "ffn_config.moe_num_experts", "found 0"),
        (_ffn(ffn_hidden_size=0), "ffn_config.ffn_hidden_size", "found 0"),
        (_ffn(moe_jitter_eps=1.0), "ffn_config.moe_jitter_eps", "found 1.0"),
        (_ffn(moe_loss_weight=-0.1), "ffn_config.moe_loss_weight", "found -0.1"),
        (
            replace(_ffn(ffn_hidden_size=24), experts=ExpertsImplementation.megablocks),
            "ffn_config.ffn_hidden_size",
            "found 96",
        ),
        (
            replace(_ffn(ffn_hidden_size=36), experts=ExpertsImplementation.megablocks),
            "ffn_config.ffn_hidden_size",
            "a multiple of 8, which a grouped GEMM needs in megablocks experts, found 36",
        ),
        (_ffn(moe_normalize_expert_weights=0.0), "ffn_config.moe_normalize_expert_weights", "found 0.0"),
        (_ffn(moe_zloss_weight=-0.1), "ffn_config.moe_zloss_weight", "found -0.1"),
        (_ffn(moe_zloss_weight=float("nan")), "ffn_config.moe_zloss_weight", "found nan"),
        (_ffn(moe_bias_update_rate=0.0), "ffn_config.moe_bias_update_rate", "or null for no bias, found 0.0"),
        (
            _ffn(moe_bias_update_rate=0.1, uniform_expert_assignment=True),
            "ffn_config.moe_bias_update_rate",
            "null where uniform_expert_assignment is true",
        ),
        (_ffn(first_k_dense_replace=-1), "ffn_config.first_k_dense_replace", "found -1"),
        (_ffn(first_k_dense_replace=24), "ffn_config.first_k_dense_replace", "less than n_layers (24)"),
        (_ffn(dense_ffn_hidden_size=9), "ffn_config.dense_ffn_hidden_size", "null where first_k_dense_replace is 0"),
        (
            _ffn(first_k_dense_replace=1, dense_ffn_hidden_size=0),
            "ffn_config.dense_ffn_hidden_size",
            "above 0, found 0",
        ),
    ],
)
def test_each_problem_is_named(config, key, found):
    assert [(k, found in sentence) for k, sentence in config.problems()] == [(key, True)]
    with pytest.raises(ValueError, match=re.escape(found)):
        check_config(config)


def test_good_configs_have_no_problems():
    assert list(GOOD.problems()) == list(ModelConfig().problems()) == []


def test_reads_from_yaml():
    yaml = """{d_model: 64, n_heads: 4, experts: torch, attn_config: {clip_qkv: 8},
        ffn_config: {moe_jitter_eps: null, moe_loss_scope: global_batch}}"""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.create(yaml)))
    assert isinstance(config, ModelConfig) and isinstance(config.ffn_config, FFNConfig)
    assert config.experts is ExpertsImplementation.torch and config.attn_config.clip_qkv == 8.0
    assert config.ffn_config.moe_loss_scope is LossScope.global_batch


def _ours() -> dict:
    return OmegaConf.to_container(OmegaConf.structured(ModelConfig))


def test_published_config_is_ours_key_by_key():
    """Every key of the published 132B config is one of ours, or says nothing of the model's numbers."""
    published = json.loads(REFERENCE.read_text())
    elsewhere = {
        *("architectures", "auto_map", "model_type", "transformers_version", "torch_dtype"),  # of the folder
        *("use_cache", "output_router_logits"),  # of what a forward pass hands back
    }
    assert published.pop("router_aux_loss_coef") == published["ffn_config"]["moe_loss_weight"]  # the same, twice
    values = {key: value for key, value in published.items() if key not in elsewhere}
    for part in ("attn_config", "ffn_config"):
        assert values[part].pop("model_type") == ""
    config = OmegaConf.merge(OmegaConf.structured(ModelConfig), values)  # refuses a key that it does not know
    for key, value in values.items():
        ours = OmegaConf.to_container(config)[key]
        assert ours == value if not isinstance(value, dict) else {name: ours[name] for name in value} == value
    assert list(OmegaConf.to_object(config).problems()) == []


def test_every_option_of_transformers_is_ours():
    """With its name and its default, or its absence has a reason."""
    absent = {"use_cache", "output_router_logits", "pad_token_id", "bos_token_id", "eos_token_id"}  # see ModelConfig
    groups = ("attn_config", "ffn_config", "rope_parameters")  # compared below
    same = ((DbrxConfig, _ours(), absent), (DbrxAttentionConfig, _ours()["attn_config"], set()))
    for theirs, ours, without in same:
        options = set(theirs.__annotations__) - without
        assert options <= set(ours)
        for name in options - set(groups):
            assert ours[name] == getattr(theirs(), name), name
    # hidden_size is d_model; of ffn_act_fn only the name is an option, ours `activation`
    assert set(DbrxFFNConfig.__annotations__) - {"hidden_size", "ffn_act_fn"} <= set(_ours()["ffn_config"])
    # These three are for types of scaling that we lack; see RopeType.
    left_out = {"partial_rotary_factor", "short_factor", "long_factor"}
    assert set(TransformersRope.__annotations__) - left_out <= set(_ours()["rope_parameters"])
