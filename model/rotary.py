"""Rotary positions (RoFormer, arXiv 2104.09864), stretched for longer context where the config says so."""

import math

import torch
from torch import Tensor

from model.rope_config import RopeParameters, RopeType


def rotary_table(positions: Tensor, head_dim: int, rope: RopeParameters) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each fp32 [..., T, 1, R], of position * frequency in radians; positions are [..., T].

    It is worked out anew by each layer: that costs microseconds, and a buffer would have to survive meta-device
    initialisation, sharding and casts to bf16.
    """
    angle_T1R = positions[..., None, None].float() * frequencies(head_dim, rope, positions.device)
    factor = attention_factor(rope)
    cos_T1R, sin_T1R = angle_T1R.cos(), angle_T1R.sin()
    return (cos_T1R, sin_T1R) if factor == 1 else (cos_T1R * factor, sin_T1R * factor)


def frequencies(head_dim: int, rope: RopeParameters, device: torch.device) -> Tensor:
    """fp32 [R]: radians by which each channel pair turns from one position to the next.

    `rope` is `ModelConfig.rope`. Plain frequencies are bit for bit those of transformers, because at position 32,768
    a difference in the last bit of a frequency is an angle of 0.002.
    """
    assert rope.rope_theta is not None
    plain_R = 1.0 / rope.rope_theta ** (torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    if rope.rope_type is RopeType.default:
        return plain_R
    assert rope.factor is not None
    stretched_R = plain_R / rope.factor
    if rope.rope_type is RopeType.linear:
        return stretched_R
    yarn = rope.rope_type is RopeType.yarn
    kept_R = _kept_by_yarn(head_dim, rope, device) if yarn else _kept_by_llama3(plain_R, rope)
    return stretched_R * (1 - kept_R) + plain_R * kept_R


def attention_factor(rope: RopeParameters) -> float:
    """What queries and keys are multiplied by: above 1 under YaRN (arXiv 2309.00071, equation 22), else 1."""
    if rope.rope_type is not RopeType.yarn:
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    assert rope.factor is not None
    log_factor = math.log(max(rope.factor, 1.0))
    if rope.mscale and rope.mscale_all_dim:  # DeepSeek-V3's
        return (0.1 * rope.mscale * log_factor + 1.0) / (0.1 * rope.mscale_all_dim * log_factor + 1.0)
    return 0.1 * log_factor + 1.0


def _kept_by_yarn(head_dim: int, rope: RopeParameters, device: torch.device) -> Tensor:
    """fp32 [R]: 1 where a channel pair keeps its frequency, 0 where it is stretched, and a straight ramp between.

    The ramp lies between the channels that turn beta_fast and beta_slow times in the original context (arXiv
    2309.00071, section 3.2).
    """
    low, high = (_channel_that_turns(turns, head_dim, rope) for turns in (rope.beta_fast or 32, rope.beta_slow or 1))
    if rope.truncate in (None, True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp_R = (torch.arange(head_dim // 2, device=device, dtype=torch.float32) - low) / (high - low)
    return 1 - ramp_R.clamp(0, 1)


def _channel_that_turns(turns: float, head_dim: int, rope: RopeParameters) -> float:
    """The channel pair, as a real number, that turns this often in the original context."""
    assert rope.original_max_position_embeddings is not None and rope.rope_theta is not None
    wavelength = rope.original_max_position_embeddings / turns
    return head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(rope.rope_theta))


def _kept_by_llama3(plain_R: Tensor, rope: RopeParameters) -> Tensor:
    """fp32 [R], as for YaRN: the ramp is over the turns in the original context (Llama 3.1's reference code)."""
    assert rope.original_max_position_embeddings and rope.low_freq_factor and rope.high_freq_factor
    turns_R = rope.original_max_position_embeddings * plain_R / (2 * math.pi)
    return ((turns_R - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)


def rotate(x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    """Turns channel pair (r, r + R) of each head by its position's angle; same shape and dtype."""
    if torch.compiler.is_compiling():  # it fuses the plain formula, and can't follow writes into a slice
        first_BTXR, second_BTXR = x_BTXC.chunk(2, dim=-1)
        y_first = first_BTXR * cos_T1R - second_BTXR * sin_T1R
        return torch.cat([y_first, second_BTXR * cos_T1R + first_BTXR * sin_T1R], dim=-1).to(x_BTXC.dtype)
    return _Rotate.apply(x_BTXC, cos_T1R, sin_T1R)


class _Rotate(torch.autograd.Function):
    """A rotation, whose gradient is the rotation by the opposite angle: nothing of x is kept."""

    @staticmethod
    def forward(ctx, x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
        ctx.save_for_backward(cos_T1R, sin_T1R)
        return _turn(x_BTXC, cos_T1R, sin_T1R)

    @staticmethod
    def backward(ctx, grad_BTXC: Tensor) -> tuple[Tensor, None, None]:
        cos_T1R, sin_T1R = ctx.saved_tensors
        return _turn(grad_BTXC, cos_T1R, -sin_T1R), None, None


def _turn(x_BTXC: Tensor, cos_T1R: Tensor, sin_T1R: Tensor) -> Tensor:
    first_BTXR, second_BTXR = x_BTXC.chunk(2, dim=-1)
    y_BTXC = torch.empty(x_BTXC.shape, dtype=cos_T1R.dtype, device=x_BTXC.device)
    y_first, y_second = y_BTXC.chunk(2, dim=-1)
    torch.mul(first_BTXR, cos_T1R, out=y_first).addcmul_(second_BTXR, sin_T1R, value=-1)
    torch.mul(second_BTXR, cos_T1R, out=y_second).addcmul_(first_BTXR, sin_T1R)
    return y_BTXC.to(x_BTXC.dtype)
