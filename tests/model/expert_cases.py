"""Routings that experts must get right, and the plainest way to compute them, in fp64."""

import torch
from torch import Tensor

D_MODEL, FFN_HIDDEN, N_EXPERTS = 20, 24, 6

# name: (tokens, top_k, how many of the experts can be chosen)
CASES = {"even": (18, 2, 6), "uneven and empty": (17, 2, 3), "one expert": (5, 1, 1), "all experts": (7, 6, 6)}


def draw(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_ND, weights_NK, experts_NK (distinct for a token) and a gradient for the output."""
    tokens, top_k, reachable = CASES[name]
    generator = torch.Generator().manual_seed(len(name))
    experts = torch.stack([torch.randperm(reachable, generator=generator)[:top_k] for _ in range(tokens)])
    x, grad = (torch.randn(tokens, D_MODEL, generator=generator) for _ in range(2))
    return x, torch.rand(tokens, top_k, generator=generator), experts, grad


def plain_loop(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, w1: Tensor, v1: Tensor, w2: Tensor) -> Tensor:
    """Token by token, expert by expert."""
    w1, v1, w2 = (w.view(N_EXPERTS, FFN_HIDDEN, D_MODEL) for w in (w1, v1, w2))
    rows = []
    for x, weights, experts in zip(x_ND, weights_NK, experts_NK, strict=True):
        terms = []
        for weight, e in zip(weights, experts.tolist(), strict=True):
            gate, up = w1[e] @ x, v1[e] @ x
            terms.append(weight * ((gate * gate.sigmoid() * up) @ w2[e]))
        rows.append(sum(terms))
    return torch.stack(rows)


def forward_and_gradients(compute, x, weights, experts, grad, parameters) -> list[Tensor]:
    """The output and the gradients of x, the weights and each parameter, all in fp64."""
    x, weights = (t.detach().clone().requires_grad_() for t in (x, weights))
    output = compute(x, weights, experts)
    gradients = torch.autograd.grad(output, [x, weights, *parameters], grad.to(output.dtype))
    return [t.double() for t in (output.detach(), *gradients)]


def expected(name: str, parameters: list[Tensor]) -> list[Tensor]:
    """What any implementation should give for a case, within rounding."""
    x, weights, experts, grad = draw(name)
    exact = [p.detach().double().requires_grad_() for p in parameters]
    return forward_and_gradients(
        lambda x, w, e: plain_loop(x, w, e, *exact), x.double(), weights.double(), experts, grad, exact
    )


def worst_error(got: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest deviation, relative to the largest value of its tensor."""
    return max(((g - w).abs().max() / w.abs().max().clamp(min=1e-12)).item() for g, w in zip(got, wanted, strict=True))
