"""Rotary positions stretched for longer context: the part of the config that says how."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from model.config_checks import Problem, expect_positive


class RopeType(Enum):
    """How rotary wavelengths are stretched for a context longer than the weights were trained on.

    Of transformers' types are missing `dynamic`, which stretches beyond `max_seq_len` only, where samples are refused
    here; `longrope`, whose factors are searched for a trained model channel by channel; and `proportional`, which
    leaves channels unturned and is for no longer context.
    """

    default = "default"  # not at all
    linear = "linear"  # all by the same factor (arXiv 2306.15595)
    yarn = "yarn"  # long ones more than short ones, and attention is sharpened (arXiv 2309.00071)
    llama3 = "llama3"  # long ones by the factor, short ones not at all (arXiv 2407.21783)


ROPE_KEYS = {  # besides rope_theta
    RopeType.default: (),
    RopeType.linear: ("factor",),
    RopeType.yarn: (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    RopeType.llama3: ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


@dataclass
class RopeParameters:
    """Rotary positions for longer context: transformers' `rope_parameters`, which was `rope_scaling` before 5.0."""

    rope_type: RopeType = RopeType.default
    rope_theta: float | None = None  # null: attn_config.rope_theta
    factor: float | None = None  # by how much the context grows
    original_max_position_embeddings: int | None = None  # context of the weights, in tokens; null: max_seq_len
    attention_factor: float | None = None  # yarn: multiplies queries and keys; null: from factor and the two mscales
    beta_fast: float | None = None  # yarn: channels that turn more often than this in the context stay; null: 32
    beta_slow: float | None = None  # yarn: those that turn less often are stretched by the whole factor; null: 1
    mscale: float | None = None  # yarn
    mscale_all_dim: float | None = None  # yarn
    truncate: bool | None = None  # yarn: whole channels bound the ramp between the two; null: true
    low_freq_factor: float | None = None  # llama3: wavelengths above context / this are stretched
    high_freq_factor: float | None = None  # llama3: those below context / this stay

    def problems(self) -> Iterator[Problem]:
        """Yields (key, sentence) for each value that can't work on its own or with its neighbours here."""
        kind = self.rope_type.value
        for name, value in self.given().items():
            if name not in ("rope_type", "rope_theta", *ROPE_KEYS[self.rope_type]):
                yield name, f"expected no such key with rope_type {kind}, which does not use it, found {value}"
            elif not isinstance(value, bool | RopeType):
                yield from expect_positive(name, value)
        if self.rope_type is not RopeType.default and (self.factor is None or 0 < self.factor < 1):
            yield "factor", f"expected a number of at least 1 with rope_type {kind}, found {self.factor}"
        if self.rope_type is RopeType.llama3:
            yield from self._llama3_problems()
        fast, slow = self.beta_fast or 32.0, self.beta_slow or 1.0
        if self.rope_type is RopeType.yarn and not fast > slow:
            yield "beta_fast", f"expected a number above beta_slow ({slow:g}), found {fast:g}"

    def _llama3_problems(self) -> Iterator[Problem]:
        low, high = self.low_freq_factor, self.high_freq_factor
        for name, value in (("low_freq_factor", low), ("high_freq_factor", high)):
            if value is None:
                yield name, "expected a number with rope_type llama3, found nothing"
        if low is not None and high is not None and not high > low:
            yield "high_freq_factor", f"expected a number above low_freq_factor ({low:g}), found {high:g}"

    def given(self) -> dict[str, Any]:
        """What is not null, by name."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
