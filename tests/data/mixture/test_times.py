"""Times as people write them."""

from fractions import Fraction

import pytest

from data.mixture.times import TrainingTime, parse_time


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("8Ttok", 8 * 10**12, "tok"),
        ("12.5Btok", 12_500_000_000, "tok"),
        ("1e9tok", 10**9, "tok"),
        ("2_000sp", 2000, "sp"),
        ("500ba", 500, "ba"),
        ("10 Mtok", 10**7, "tok"),
        ("0.1dur", Fraction(1, 10), "dur"),
    ],
)
def test_read(text: str, value: Fraction, unit: str) -> None:
    assert parse_time(text) == TrainingTime(Fraction(value), unit)


@pytest.mark.parametrize("text", ["", "12", "tok", "-1ba", "1ep", "1.5sp", "ten ba", "1ba2", "1__ba!"])
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_time(text)


def test_samples_are_exact() -> None:
    sizes = {"max_seq_len": 2048, "batch_size": 6}
    assert parse_time("12Ttok").to_samples(**sizes) == Fraction(12 * 10**12, 2048)
    assert parse_time("5ba").to_samples(**sizes) == 30
    assert parse_time("7sp").to_samples(**sizes) == 7
    assert parse_time("0.25dur").to_samples(**sizes, duration=400) == 100
    with pytest.raises(ValueError, match="dur"):
        parse_time("0.25dur").to_samples(**sizes)
