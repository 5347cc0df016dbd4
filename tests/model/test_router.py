"""Choices, weights, jitter and the load-balancing loss."""

import pytest
import torch

from model.config import ModelConfig
from model.ffn_config import FFNConfig
from model.router import Router, load_balancing_loss


def _router(**values) -> Router:
    torch.manual_seed(0)
    return Router(ModelConfig(d_model=16, ffn_config=FFNConfig(moe_num_experts=8, **values)))


@pytest.mark.parametrize("p", [None, 1.0, 2.0, 3.0])
def test_weights_are_normalised_by_the_p_norm(p):
    routing = _router(moe_top_k=3, moe_normalize_expert_weights=p)(torch.randn(20, 16))
    chosen = routing.probabilities_NE.gather(1, routing.experts_NK)
    norm = 1.0 if p is None else (chosen**p).sum(1, keepdim=True) ** (1 / p)
    torch.testing.assert_close(routing.weights_NK, chosen / norm)
    assert (chosen.min(1).values >= routing.probabilities_NE.sort(1, descending=True).values[:, 2]).all()


def test_counts():
    routing = _router(moe_top_k=3)(torch.randn(20, 16))
    assert routing.tokens_per_expert_E.sum() == 60
    assert routing.tokens_per_expert_E[5] == (routing.experts_NK == 5).sum()


def test_fp32_inside_whatever_comes_in():
    routing = _router(moe_top_k=3).bfloat16()(torch.randn(20, 16, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = _router(moe_top_k=3)(torch.randn(20, 16))
    assert {t.dtype for r in (routing, under_autocast) for t in r[:3]} == {torch.float32}


def test_jitter_in_training_only():
    router, x = _router(moe_top_k=2, moe_jitter_eps=0.1), torch.randn(20, 16)
    calm = router.eval()(x).logits_NE
    assert torch.equal(calm, router(x).logits_NE)
    noisy = router.train()(x).logits_NE
    assert 0 < (noisy - calm).abs().max() < 0.1 * (x.abs() @ router.layer.weight.abs().T).max()


def test_uniform_assignment_is_even():
    routing = _router(moe_top_k=2, uniform_expert_assignment=True)(torch.randn(20, 16))
    assert routing.tokens_per_expert_E.tolist() == [5] * 8


def test_balancing_loss_is_top_k_when_even_and_grows():
    even = _router(moe_top_k=2, uniform_expert_assignment=True)
    even.layer.weight.data.zero_()
    torch.testing.assert_close(load_balancing_loss([even(torch.randn(20, 16))] * 3), torch.tensor(2.0))
    one_sided = _router(moe_top_k=2)
    one_sided.layer.weight.data[:2] += 5.0
    assert load_balancing_loss([one_sided(torch.rand(20, 16))]) > 7.9


def test_balancing_each_layer_sees_what_layers_together_hide():
    x, loads = torch.rand(40, 16), []
    for favourites in (slice(0, 4), slice(4, 8)):  # two layers, each on another half of the experts
        router = _router(moe_top_k=2)
        router.layer.weight.data[favourites] += 5.0
        loads.append(router(x))
    each = torch.stack([load_balancing_loss([routing]) for routing in loads])
    torch.testing.assert_close(load_balancing_loss(loads, per_layer=True), each.mean())
    assert load_balancing_loss(loads) < 3 < 3.9 < load_balancing_loss(loads, per_layer=True)
