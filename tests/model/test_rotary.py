"""Rotary positions, their gradient, and their scaling as transformers has it."""

from dataclasses import asdict

import pytest
import torch
from transformers import DbrxConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from model.config import AttentionConfig, ModelConfig
from model.rope_config import RopeParameters, RopeType
from model.rotary import attention_factor, frequencies, rotary_table, rotate

CPU = torch.device("cpu")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _table(length: int, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary_table(torch.arange(length), head_dim, RopeParameters(rope_theta=theta))


def test_rotation_is_a_complex_product():
    x = torch.randn(2, 7, 3, 8, dtype=torch.float64)
    table = _table(7, 8, 500.0)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    frequency = 500.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    turned = pairs * torch.polar(torch.ones(7, 4, dtype=torch.float64), torch.arange(7)[:, None] * frequency)[:, None]
    torch.testing.assert_close(rotate(x, *table), torch.cat([turned.real, turned.imag], -1), rtol=1e-5, atol=1e-5)


def test_scores_depend_on_distance_only():
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    table = _table(12, 8, 100.0)
    turned_q, turned_k = (rotate(x.expand(1, 12, 1, 8), *table)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(12):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)


def test_gradient_of_the_rotation():
    cos, sin = (t.double() for t in _table(5, 6, 10.0))
    x = torch.randn(2, 5, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, cos, sin), (x,))


def test_positions_may_differ_between_samples():
    positions = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 1]])
    x = torch.randn(2, 4, 3, 8)
    rope = RopeParameters(rope_theta=50.0)
    both = rotate(x, *rotary_table(positions, 8, rope))
    for b in range(2):
        alone = rotate(x[b : b + 1], *rotary_table(positions[b], 8, rope))
        torch.testing.assert_close(both[b : b + 1], alone)


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096},
        {"rope_type": "yarn", "factor": 8.0},  # the original context is then max_seq_len
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
        {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7},
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5},
        {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192, **LLAMA3},
        {"rope_type": "llama3", "factor": 32.0, **LLAMA3, "high_freq_factor": 2.0},
    ],
    ids=str,
)
def test_scaling_is_that_of_transformers(rope, theta, head_dim):
    theirs = DbrxConfig(
        d_model=4 * head_dim, n_heads=4, max_seq_len=32_768, rope_parameters={"rope_theta": theta, **rope}
    )
    expected, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, CPU)
    given = RopeParameters(**{**rope, "rope_type": RopeType(rope["rope_type"])})
    config = ModelConfig(
        d_model=4 * head_dim,
        n_heads=4,
        max_seq_len=32_768,
        rope_parameters=given,
        attn_config=AttentionConfig(rope_theta=theta),
    )
    assert list(config.problems()) == []
    torch.testing.assert_close(frequencies(head_dim, config.rope, CPU), expected, rtol=2e-6, atol=0)
    assert attention_factor(config.rope) == pytest.approx(factor, rel=1e-12)
    cos, sin = rotary_table(torch.arange(9), head_dim, config.rope)
    torch.testing.assert_close((cos**2 + sin**2).sqrt(), torch.full_like(cos, factor))


def test_scaled_frequencies_differ_from_plain_ones():
    """Or else the comparison above would say nothing."""
    plain = ModelConfig(d_model=256, n_heads=4, max_seq_len=32_768)
    for kind in (RopeType.linear, RopeType.yarn, RopeType.llama3):
        numbers = LLAMA3 if kind is RopeType.llama3 else {}
        rope = RopeParameters(kind, factor=4.0, **numbers)
        scaled = ModelConfig(d_model=256, n_heads=4, max_seq_len=32_768, rope_parameters=rope)
        ratio = frequencies(64, plain.rope, CPU) / frequencies(64, scaled.rope, CPU)
        assert ratio.max() == pytest.approx(4.0) and (kind is RopeType.linear or ratio.min() == pytest.approx(1.0))


def test_plain_frequencies_are_bit_for_bit_transformers():
    from transformers.models.dbrx.modeling_dbrx import DbrxRotaryEmbedding

    theirs = DbrxConfig(d_model=512, n_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    assert torch.equal(
        frequencies(128, RopeParameters(rope_theta=500_000.0), CPU), DbrxRotaryEmbedding(theirs).inv_freq
    )


def test_theta_of_the_attention_config_unless_rope_parameters_name_one():
    config = ModelConfig(attn_config=AttentionConfig(rope_theta=7.0))
    assert config.rope.rope_theta == 7.0 and asdict(config)["rope_parameters"]["rope_theta"] is None
    config.rope_parameters.rope_theta = 9.0
    assert config.rope.rope_theta == 9.0
