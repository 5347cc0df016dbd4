"""Points and lengths of training time, written as people write them: `8Ttok`, `250_000sp`, `1000ba`, `0.5dur`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

UNITS = {"tok": "tokens", "sp": "samples", "ba": "batches", "dur": "fraction of max_duration"}
SCALES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
FORM = re.compile(r"(?P<number>[0-9][0-9_]*(\.[0-9]+)?([eE][0-9]+)?)\s*(?P<scale>[KMGBT]?)(?P<unit>tok|sp|ba|dur)")


@dataclass(frozen=True)
class TrainingTime:
    """An exact amount of training: `value` in `unit` (a key of `UNITS`)."""

    value: Fraction
    unit: str

    def to_samples(self, *, max_seq_len: int, batch_size: int, duration: int | None = None) -> Fraction:
        """The same amount in samples, exactly; `duration` (samples) is what `dur` is a fraction of."""
        if self.unit == "tok":
            return self.value / max_seq_len
        if self.unit == "ba":
            return self.value * batch_size
        if self.unit == "dur":
            if duration is None:
                raise ValueError("a time in `dur` needs max_duration in another unit")
            return self.value * duration
        return self.value


def parse_time(text: str) -> TrainingTime:
    """Read a time such as `8Ttok`.

    Raises:
        ValueError: with one sentence that says which forms are read.
    """
    match = FORM.fullmatch(str(text).strip())
    if match is None:
        raise ValueError(f"expected a time such as 500ba, 2_000sp, 10Mtok or 0.5dur, found {text!r}")
    value = Fraction(match["number"].replace("_", "")) * SCALES[match["scale"]]
    if match["unit"] != "dur" and value.denominator != 1:
        raise ValueError(f"expected a whole number of {UNITS[match['unit']]}, found {text!r}")
    return TrainingTime(value, match["unit"])
