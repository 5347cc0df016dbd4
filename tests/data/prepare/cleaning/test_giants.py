"""Texts of millions of characters without what a pattern looks for: a quadratic search would take hours."""

import pytest

from data.prepare.cleaning.steps import STEPS

MILLION = 1_000_000
GIANTS = {
    "one word": "a" * MILLION,
    "long words": ("a" * 999 + " ") * (MILLION // 1000),
    "dots": "." * MILLION,
    "digits and dots": "1." * (MILLION // 2),
    "hex and colons": "2001:" * (MILLION // 5),
    "at signs": "a@" * (MILLION // 2),
    "domains without an end": "a@" + "b." * (MILLION // 2),
    "brackets": "[" * MILLION + "1]" * (MILLION // 2),
    "spaces": " " * MILLION,
    "newlines": "\n" * MILLION,
    "blank lines": "\n \n\t" * (MILLION // 4),
    "combining marks": "a" + "\u0301\u0323" * (MILLION // 2),
    "mojibake": "Ã¶" * (MILLION // 2),
    "accents": "é" * MILLION,
    "one letter words": "a " * (MILLION // 2),
    "NUL": "\x00" * MILLION,
    "surrogates": "\ud800" * MILLION,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", STEPS)
def test_no_step_is_quadratic(name):
    step = STEPS[name]()
    for text in GIANTS.values():
        step.apply(text)
