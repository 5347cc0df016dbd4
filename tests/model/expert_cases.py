"""Routings that experts must get right, and the plainest way to compute them, in fp64."""

import random
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.config import ExpertsGemm, ExpertsImplementation, ModelConfig
from model.experts import build_experts
from model.experts.interface import Experts
from model.ffn_config import FFNConfig


class Case(NamedTuple):
    tokens: int
    top_k: int
    reachable: int  # how many of the experts can be chosen
    n_experts: int = 6
    d_model: int = 24
    ffn: int = 32

    def config(self, kind: str, gemm: str = "auto") -> ModelConfig:
        ffn = FFNConfig(ffn_hidden_size=self.ffn, moe_num_experts=self.n_experts, moe_top_k=self.top_k)
        return ModelConfig(
            d_model=self.d_model, ffn_config=ffn, experts=ExpertsImplementation[kind], experts_gemm=ExpertsGemm[gemm]
        )


def _random_case(seed: int) -> Case:
    draw = random.Random(seed)
    n_experts = draw.randint(4, 12)
    top_k = draw.randint(1, 4)
    reachable = draw.randint(top_k, n_experts)
    return Case(draw.randint(2, 40), top_k, reachable, n_experts, 8 * draw.randint(2, 6), 8 * draw.randint(4, 10))


CASES = {
    "even": Case(18, 2, 6),
    "uneven and empty": Case(17, 2, 3),
    "one expert gets everything": Case(9, 1, 1),
    "one token": Case(1, 2, 6),
    "all experts": Case(7, 6, 6),
    **{f"random {seed}": _random_case(seed) for seed in range(6)},
}


def draw(case: Case, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_ND, weights_NK, experts_NK (distinct for a token) and a gradient for the output."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((case, seed)).encode()))
    chosen = [torch.randperm(case.reachable, generator=generator)[: case.top_k] for _ in range(case.tokens)]
    experts = torch.stack(chosen) if chosen else torch.empty(0, case.top_k, dtype=torch.int64)
    x, grad = (torch.randn(case.tokens, case.d_model, generator=generator) for _ in range(2))
    return x, torch.rand(case.tokens, case.top_k, generator=generator), experts, grad


def built(case: Case, kind: str, gemm: str = "auto") -> Experts:
    """Experts of one implementation; the weights are the same for all."""
    experts = build_experts(case.config(kind, gemm))
    set_weights(list(experts.parameters()))
    return experts


def set_weights(parameters: list[torch.nn.Parameter]) -> None:
    for number, parameter in enumerate(parameters):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))


def plain_loop(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, parameters: list[Tensor], ffn: int) -> Tensor:
    """Token by token, expert by expert."""
    w1, v1, w2 = (w.view(-1, ffn, w.shape[-1]) for w in parameters)
    rows = []
    for x, weights, experts in zip(x_ND, weights_NK, experts_NK, strict=True):
        terms = []
        for weight, e in zip(weights, experts.tolist(), strict=True):
            gate, up = w1[e] @ x, v1[e] @ x
            terms.append(weight * ((gate * gate.sigmoid() * up) @ w2[e]))
        rows.append(sum(terms))
    return torch.stack(rows) if rows else x_ND + 0 * sum(w.sum() for w in parameters) + 0 * weights_NK.sum()


def forward_and_gradients(compute, drawn, parameters) -> list[Tensor]:
    """The output and the gradients of x, the weights and each parameter, all in fp64."""
    x, weights, experts, grad = drawn
    x, weights = (t.detach().clone().requires_grad_() for t in (x, weights))
    output = compute(x, weights, experts)
    gradients = torch.autograd.grad(output, [x, weights, *parameters], grad.to(output.dtype))
    return [t.double() for t in (output.detach(), *gradients)]


def output_of(experts: Experts) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Their output alone, where every slot of a call was computed here."""

    def compute(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        y_ND, computed = experts(x_ND, weights_NK, experts_NK)
        assert computed.dtype == torch.int64 and computed == experts_NK.numel()
        return y_ND

    return compute


def expected(case: Case, parameters: list[Tensor], seed: int = 0) -> list[Tensor]:
    """What any implementation should give for a case, within rounding."""
    x, weights, experts, grad = draw(case, seed)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    drawn = (x.double(), weights.double(), experts, grad)
    return forward_and_gradients(lambda x, w, e: plain_loop(x, w, e, exact, case.ffn), drawn, exact)


def worst_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest deviation, relative to the largest value of its tensor."""
    return max(
        ((g - w).abs().max() / w.abs().max().clamp(min=1e-12)).item()
        for g, w in zip(got, wanted, strict=True)
        if w.numel()
    )
