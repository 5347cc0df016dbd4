"""Our config and weights as transformers' DBRX, read by transformers itself, and back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DbrxConfig

from model import huggingface
from model.config import AttentionConfig, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.errors import ModelError
from model.ffn_config import FFNConfig
from model.huggingface import NO_CLIP, from_huggingface, to_huggingface
from model.rope_config import RopeParameters, RopeType
from model.safetensors_folder import write_safetensors

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=24,
    vocab_size=61,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=0.7, rope_theta=500_000.0),
    ffn_config=FFNConfig(ffn_hidden_size=20, moe_num_experts=6, moe_top_k=2, moe_normalize_expert_weights=2.0),
    initializer_range=0.2,
)
CONFIGS = [
    CONFIG,
    replace(CONFIG, attn_config=AttentionConfig(kv_n_heads=4, clip_qkv=None, rope_theta=100.0)),
    replace(CONFIG, tie_word_embeddings=True, ffn_config=replace(CONFIG.ffn_config, moe_normalize_expert_weights=None)),
    *(
        replace(CONFIG, rope_parameters=rope)
        for rope in (
            RopeParameters(RopeType.linear, factor=3.0),
            RopeParameters(RopeType.yarn, factor=3.0, original_max_position_embeddings=8, beta_fast=4.0, beta_slow=0.5),
            RopeParameters(
                RopeType.llama3,
                factor=3.0,
                original_max_position_embeddings=8,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
            ),
        )
    ),
]
NAMES = ["plain", "no-clip", "tied", "linear", "yarn", "llama3"]
PUBLISHED = Path(__file__).parent / "dbrx_132b_config.json"


def export(folder: Path, config: ModelConfig, dtype: torch.dtype = torch.float32) -> DbrxForCausalLM:
    """A model with random weights, and its folder."""
    folder.mkdir(exist_ok=True)
    model = DbrxForCausalLM(config, seed=5).eval()
    tensors = model.state_dict()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    write_safetensors(folder, shapes, dict.fromkeys(shapes, dtype), tensors.__getitem__, max_shard_bytes=20_000)
    content = to_huggingface(config, str(dtype).removeprefix("torch."))
    (folder / "config.json").write_text(json.dumps(content, allow_nan=False))
    return model


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_transformers_computes_the_same_logits(tmp_path: Path, config: ModelConfig, implementation: str) -> None:
    ours = export(tmp_path, config)
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path, local_files_only=True, attn_implementation=implementation, output_loading_info=True
    )
    assert not any(report.values()), report
    assert theirs.config._attn_implementation == implementation
    tokens = torch.randint(61, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = ours(tokens).logits_BTV, theirs(tokens).logits
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert len(set(expected.argmax(-1).flatten().tolist())) > 5, "the models say one thing whatever they are asked"
    prompt = {"input_ids": tokens[:, :8], "attention_mask": torch.ones(2, 8)}
    generated = theirs.generate(**prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
    for row in generated:  # greedy: each token is the likeliest after those before it
        likeliest = ours(row[None, :-1]).logits_BTV[0, 7:].argmax(-1)
        assert row[8:].tolist() == likeliest.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_without_a_clip_half_precision_runs(tmp_path: Path, dtype: torch.dtype) -> None:
    export(tmp_path, CONFIGS[1], dtype)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert theirs.dtype is dtype
    assert theirs(torch.arange(5)[None]).logits.isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_config_comes_back(tmp_path: Path, config: ModelConfig) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_huggingface(config, "float32")))
    untied = replace(config, tie_word_embeddings=False)
    assert from_huggingface(path) == untied
    AutoConfig.from_pretrained(path).save_pretrained(tmp_path / "saved-by-transformers")
    assert from_huggingface(tmp_path / "saved-by-transformers" / "config.json") == untied


def test_rope_theta_reaches_transformers(tmp_path: Path) -> None:
    """DbrxConfig ignores the one in attn_config and takes 10,000."""
    (tmp_path / "config.json").write_text(json.dumps(to_huggingface(CONFIG, "float32")))
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters["rope_theta"] == 500_000


def test_the_published_config() -> None:
    config = from_huggingface(PUBLISHED)
    assert (config.d_model, config.n_heads, config.n_layers, config.vocab_size) == (6144, 48, 40, 100_352)
    assert config.attn_config == AttentionConfig(kv_n_heads=8, clip_qkv=8.0, rope_theta=500_000.0)
    assert (config.ffn_config.moe_num_experts, config.ffn_config.moe_top_k) == (16, 4)
    assert config.ffn_config.moe_loss_weight == 0.05


def test_a_rope_that_transformers_made_of_an_older_one_has_its_type_twice(tmp_path: Path) -> None:
    DbrxConfig(rope_scaling={"type": "linear", "factor": 2.0}).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    assert json.loads(path.read_text())["rope_parameters"].keys() >= {"type", "rope_type"}
    assert from_huggingface(path).rope_parameters == RopeParameters(RopeType.linear, factor=2.0)


def test_rope_scaling_as_it_was_called_before(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(change(rope_parameters=None, rope_scaling={"type": "linear", "factor": 2})))
    config = from_huggingface(path)
    assert config.rope_parameters == RopeParameters(RopeType.linear, factor=2.0)
    assert config.rope.rope_theta == 500_000.0


def test_no_clip_is_no_clip_again() -> None:
    assert to_huggingface(CONFIGS[1], "float32")["attn_config"]["clip_qkv"] == NO_CLIP


def test_what_transformers_has_no_word_for_is_refused_by_its_key() -> None:
    config = replace(CONFIG, ffn_config=replace(CONFIG.ffn_config, uniform_expert_assignment=True))
    sentence = r"^model\.ffn_config\.uniform_expert_assignment is true, which .* can't express \(only false\)"
    with pytest.raises(ModelError, match=sentence):
        to_huggingface(config, "float32")


def change(**keys: Any) -> dict[str, Any]:
    return {**to_huggingface(CONFIG, "float32"), **keys}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (change(model_type="llama"), "expected the model_type dbrx, found 'llama'"),
        ({}, "expected the model_type dbrx, found None"),
        ([1], "not a JSON object"),
        (change(d_model="wide"), "config.json: d_model: expected a whole number, found 'wide'"),
        (change(d_model=None), "config.json: d_model: expected a whole number, found None"),
        (change(n_heads=5), "config.json: n_heads: expected a divisor of d_model"),
        (change(n_layers=True), "config.json: n_layers: expected a whole number, found True"),
        (change(attn_config=3), "config.json: attn_config: expected an object, found 3"),
        (change(attn_config={"clip_qkv": "no"}), "config.json: attn_config.clip_qkv: expected a number, found 'no'"),
        (change(ffn_config={"moe_top_k": 9}), "config.json: ffn_config.moe_top_k: expected at most"),
        (change(ffn_config={"ffn_act_fn": {"name": "swoosh"}}), "ffn_act_fn: expected silu.*, found 'swoosh'"),
        (change(rope_parameters={"rope_type": "spiral"}), "rope_parameters.rope_type: expected .*, found 'spiral'"),
        (change(rope_parameters={"rope_type": "linear"}), "rope_parameters.factor: expected a number of at least 1"),
        (change(rope_parameters={"factor": "big"}), "rope_parameters.factor: expected a number, found 'big'"),
        (change(rope_parameters={"truncate": 3}), "rope_parameters.truncate: expected true or false, found 3"),
        (change(rope_parameters={"partial_rotary_factor": 0.5}), "rope_parameters.partial_rotary_factor: no such key"),
        (
            change(rope_parameters=None, rope_scaling={"type": "ntk"}),
            "rope_scaling.rope_type: .* found 'ntk'",
        ),
        (change(quantization_config={"bits": 4}), "the weights are quantised"),
    ],
)
def test_a_config_that_is_not_ours_to_read_is_refused(tmp_path: Path, content: Any, sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=sentence):
        from_huggingface(path)


def test_a_config_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(ModelError, match=r"can't read .*config.json .*is this a Hugging Face folder"):
        from_huggingface(path)
    path.write_text('{"model_type": "dbrx"')
    with pytest.raises(ModelError, match=r"config\.json is no valid JSON"):
        from_huggingface(path)


def test_each_key_is_shared_converted_or_not_needed_at_most_once() -> None:
    """And is a key of the config: a renamed one must not be forgotten here."""
    keys = [key for key, _, _ in huggingface._leaves(ModelConfig())]
    for names in (huggingface.SHARED, huggingface.CONVERTED, huggingface.UNNEEDED):
        assert names <= set(keys)
    known = [*huggingface.SHARED, *huggingface.CONVERTED, *huggingface.UNNEEDED]
    assert len(known) == len(set(known))
    beyond = {"uniform_expert_assignment", "moe_bias_update_rate", "first_k_dense_replace", "dense_ffn_hidden_size"}
    assert set(keys) - set(known) == {f"ffn_config.{name}" for name in beyond}
