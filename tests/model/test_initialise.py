"""Initial weights follow from the seed and a parameter's name alone."""

import torch

from model.config import FFNConfig, ModelConfig
from model.dbrx import DbrxForCausalLM, initialise

CONFIG = ModelConfig(
    d_model=64,
    n_heads=4,
    n_layers=2,
    vocab_size=300,
    ffn_config=FFNConfig(ffn_hidden_size=48, moe_num_experts=4),
)


def _weights(seed: int, config: ModelConfig = CONFIG) -> dict[str, torch.Tensor]:
    return DbrxForCausalLM(config, seed).state_dict()


def test_same_seed_same_weights_whatever_the_global_generator():
    torch.manual_seed(1)
    first = _weights(7)
    torch.manual_seed(2)
    second = _weights(7)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_every_weight_changes_with_the_seed_and_differs_from_its_siblings():
    first, second = _weights(7), _weights(8)
    unchanged = {name for name in first if torch.equal(first[name], second[name])}
    assert unchanged == {name for name in first if name.split(".")[-2].startswith("norm_")}
    blocks = (first[f"transformer.blocks.{i}.ffn.experts.mlp.w1"] for i in range(2))
    assert not torch.equal(*blocks)


def test_materialised_from_the_meta_device_it_is_the_same():
    with torch.device("meta"):
        model = DbrxForCausalLM(CONFIG, seed=7)
    model.to_empty(device="cpu")
    initialise(model, CONFIG, seed=7)
    expected = _weights(7)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_standard_deviations():
    weights = _weights(0)
    for name, value in weights.items():
        if "norm_1" in name or "norm_2" in name or "norm_f" in name:
            assert torch.equal(value, torch.ones_like(value))
            continue
        expected = 0.02 / 2 if name.endswith(("out_proj.weight", "w2")) else 0.02  # sqrt(2 * 2 layers) = 2
        assert abs(value.std().item() / expected - 1) < 0.15, name


def test_tied_embeddings_are_one_parameter():
    model = DbrxForCausalLM(ModelConfig(d_model=32, n_heads=4, n_layers=1, vocab_size=50, tie_word_embeddings=True))
    assert model.lm_head.weight is model.transformer.wte.weight
