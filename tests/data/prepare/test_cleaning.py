"""Cleaning, on text that is known to be trouble."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prepare.cleaning import clean


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\ufb01 x\u00b2 \u212b", "\ufb01 x\u00b2 \u00c5"),  # NFC, not NFKC
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
        ("\ufeffdef f():\n\treturn 1\n\n\n", "def f():\n\treturn 1"),
        ("\n\n    indented\n  ", "    indented"),
        ("\x0c\x0b", ""),
        (" \n\t ", ""),
        ("🧱 \U0010ffff", "🧱 \U0010ffff"),
    ],
)
def test_known_trouble(raw, cleaned):
    assert clean(raw) == cleaned


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_clean_text_is_clean(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in cleaned)
