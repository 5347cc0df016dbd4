"""The first blocks without experts."""

from dataclasses import replace

import torch

from model.config import ModelConfig
from model.dbrx import DbrxForCausalLM
from model.dense import DenseFeedForward
from model.experts.torch_experts import TorchExperts
from model.ffn_config import FFNConfig

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=3,
    vocab_size=50,
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2, first_k_dense_replace=2),
)


def test_it_is_one_expert_that_every_token_visits_with_weight_1():
    ffn = FFNConfig(ffn_hidden_size=24, moe_num_experts=1, dense_ffn_hidden_size=24, first_k_dense_replace=1)
    config = replace(CONFIG, ffn_config=ffn)
    torch.manual_seed(0)
    dense, experts = DenseFeedForward(config), TorchExperts(config)
    for name, weight in experts.mlp.named_parameters():
        ours = getattr(dense, name).weight.data
        weight.data.copy_(ours.T if name == "w2" else ours)
    x_BTD = torch.randn(3, 5, 32)
    one_N1 = torch.ones(15, 1)
    expected_ND, _ = experts(x_BTD.flatten(0, 1), one_N1, torch.zeros(15, 1, dtype=torch.int64))
    y_BTD, routing = dense(x_BTD)
    assert routing is None
    torch.testing.assert_close(y_BTD.flatten(0, 1), expected_ND)


def test_the_first_layers_are_dense_and_the_others_have_experts():
    model = DbrxForCausalLM(CONFIG)
    assert [isinstance(block.ffn, DenseFeedForward) for block in model.transformer.blocks] == [True, True, False]
    assert model.transformer.blocks[1].ffn.w1.out_features == 2 * 16  # as wide as the experts that a token visits
    wider = replace(CONFIG, ffn_config=replace(CONFIG.ffn_config, dense_ffn_hidden_size=40))
    assert DbrxForCausalLM(wider).transformer.blocks[1].ffn.w1.out_features == 40
    assert len(model.routers) == len(model(torch.zeros(2, 4, dtype=torch.int64)).routings) == CONFIG.n_moe_layers == 1


def test_every_weight_is_drawn_and_learns():
    model = DbrxForCausalLM(replace(CONFIG, d_model=64))
    tokens = torch.randint(50, (2, 8))
    model(tokens, tokens).token_loss.mean.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.norm() > 0, name
    ffn = model.transformer.blocks[0].ffn
    assert abs(ffn.w1.weight.std() / 0.02 - 1) < 0.1
    assert abs(ffn.w2.weight.std() / (0.02 / 6**0.5) - 1) < 0.1  # it writes to the residual stream
