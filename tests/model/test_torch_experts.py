"""The `torch` experts against a plain fp64 loop."""

import pytest
import torch

import expert_cases
import expert_ranks


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", expert_cases.CASES)
def test_forward_and_gradients(name, dtype, tolerance):
    case = expert_cases.CASES[name]
    experts = expert_cases.built(case, "torch")
    wanted = expert_cases.expected(case, list(experts.parameters()))
    x, weights, chosen, grad = expert_cases.draw(case)
    parameters = list(experts.to(dtype).parameters())
    drawn = (x.to(dtype), weights.to(dtype), chosen, grad)
    got = expert_cases.forward_and_gradients(expert_cases.output_of(experts), drawn, parameters)
    assert expert_cases.worst_error(got, wanted) < tolerance


def test_bfloat16_under_autocast():
    case = expert_cases.CASES["even"]
    experts = expert_cases.output_of(expert_cases.built(case, "torch"))
    x, weights, chosen, _ = expert_cases.draw(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = experts(x.bfloat16(), weights, chosen)
    assert low.dtype is torch.bfloat16
    torch.testing.assert_close(low.float(), experts(x, weights, chosen), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", expert_ranks.RANKS)
def test_expert_parallel_gradients_are_the_mean_over_ranks(name):
    assert max(expert_ranks.errors_on_ranks(expert_ranks.RANKS[name]("torch"))) < 1e-6
