"""Rotary positions and their gradient."""

import torch

from model.attention import rotary_table, rotate


def test_rotation_is_a_complex_product():
    x = torch.randn(2, 7, 3, 8, dtype=torch.float64)
    table = rotary_table(7, 8, 500.0, x.device)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    frequency = 500.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turned = pairs * torch.polar(torch.ones(7, 4, dtype=torch.float64), torch.arange(7)[:, None] * frequency)[:, None]
    torch.testing.assert_close(rotate(x, *table), torch.cat([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-5)


def test_scores_depend_on_distance_only():
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    table = rotary_table(12, 8, 100.0, q.device)
    turned_q, turned_k = (rotate(x.expand(1, 12, 1, 8), *table)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(12):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_gradient_of_the_rotation():
    cos, sin = (t.double() for t in rotary_table(5, 6, 10.0, torch.device("cpu")))
    x = torch.randn(2, 5, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))
