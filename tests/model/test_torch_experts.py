"""The `torch` experts against a plain fp64 loop."""

import pytest
import torch

from model.config import ExpertsImplementation, FFNConfig, ModelConfig
from model.experts import build_experts

import expert_cases

CONFIG = ModelConfig(
    d_model=expert_cases.D_MODEL,
    ffn_config=FFNConfig(ffn_hidden_size=expert_cases.FFN_HIDDEN, moe_num_experts=expert_cases.N_EXPERTS, moe_top_k=2),
    experts=ExpertsImplementation.torch,
)


def _experts():
    experts = build_experts(CONFIG)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.shape[0]))
    return experts


@pytest.mark.parametrize("case", expert_cases.CASES)
def test_forward_and_gradients(case):
    experts = _experts()
    parameters = list(experts.parameters())
    got = expert_cases.forward_and_gradients(experts, *expert_cases.draw(case), parameters)
    assert expert_cases.worst_error(got, expert_cases.expected(case, parameters)) < 1e-6


def test_bfloat16_under_autocast():
    experts = _experts()
    x, weights, chosen, _ = expert_cases.draw("even")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = experts(x.bfloat16(), weights, chosen)
    assert low.dtype is torch.bfloat16
    torch.testing.assert_close(low.float(), experts(x, weights, chosen), rtol=0.05, atol=0.1)
