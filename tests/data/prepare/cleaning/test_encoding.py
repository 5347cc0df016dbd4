"""Mojibake, Unicode's spellings, control characters, on text that is known to be trouble."""

import unicodedata
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prepare.cleaning.encoding import Mojibake, Unicode

clean, repair = Unicode().apply, Mojibake().apply
PROSE = "Über die Größe der Häuser: «déjà vu», 20 € — “naïve” coöperation, Ærøskøbing, żółw, Ελλάδα, снег, 東京."


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("\ufb01 x\u00b2 \u212b", "\ufb01 x\u00b2 \u00c5"),  # NFC, not NFKC
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("one\r\ntwo\rthree\u2028four\x85five", "one\ntwo\nthree\nfour\nfive"),
        ("\ufeffdef f():\n\treturn 1\n\n\n", "def f():\n\treturn 1"),
        ("\n\n    indented\n  ", "    indented"),
        ("  \n\t\n\n  indented\n \n  more", "  indented\n \n  more"),
        ("\x0c\x0b", ""),
        (" \n\t ", ""),
        ("🧱 \U0010ffff", "🧱 \U0010ffff"),
        ("half \ud83e of a pair", "half \ufffd of a pair"),
    ],
)
def test_known_trouble(raw, cleaned):
    assert clean(raw) == cleaned


@given(st.text())
def test_a_clean_text_is_clean(text):
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in cleaned)


@given(st.lists(st.sampled_from(["e", "\u0301", "\u0323", "\u0301" * 100, "\ufb1d", "\u2adc", "—" * 120, "\n", "ö"])))
def test_long_runs_of_marks_stay_as_they_are(parts):
    cleaned = clean("".join(parts))
    assert clean(cleaned) == cleaned
    assert unicodedata.normalize("NFC", cleaned) == unicodedata.normalize("NFC", "".join(parts)).rstrip().lstrip("\n")


@pytest.mark.parametrize("encoding", ["latin-1", "windows-1252", "macroman"])
def test_planted_mojibake_is_repaired_beside_good_lines(encoding):
    lines = ["the naïve façade of a café", "schöne Grüße aus Köln", "déjà vu à l’été"]
    broken = [line.encode().decode(encoding, errors="replace") for line in lines]
    repairable = [line for line in zip(broken, lines, strict=True) if "\ufffd" not in line[0]]
    assert len(repairable) >= 2
    text = "\n".join([PROSE, *(line for line, _ in repairable), "plain ASCII\r"])
    assert repair(text) == "\n".join([PROSE, *(line for _, line in repairable), "plain ASCII\r"])


def test_mojibake_twice_over_is_repaired():
    assert repair("schön".encode().decode("latin-1").encode().decode("windows-1252")) == "schön"


def test_good_text_is_left_alone():
    documentation = "\n".join(topics.values())
    assert repair(documentation) == documentation
    for text in (PROSE, "&eacute; “curly” ﬁ ＡＢＣ \x1b[31m", "x = 'Ã'", "Â§ 5"):
        assert repair(text) in (text, "§ 5")  # only encodings are repaired: no entities, ligatures, widths or quotes


@given(st.text(st.characters(max_codepoint=0x2122, exclude_categories=["Cs"])))
def test_a_repaired_text_is_repaired(text):
    for raw in (text, text.encode().decode("latin-1")):
        repaired = repair(raw)
        assert repair(repaired) == repaired
        repaired.encode()  # or Arrow could not take it
        assert repaired.count("\n") == raw.count("\n")
