"""C4's and FineWeb's rules at their published thresholds."""

from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prepare.cleaning.verdict import Drop
from data.prepare.cleaning.web import C4, FineWebQuality

PAGE = """\
Home | About | Contact
The quick brown fox jumps over the lazy dog.
Too short, this.
He asked: "Is the fox quick?" She said it was!
This line has no end that a sentence has
And this one trails off into nothing at all...
Please enable Javascript to see all of this page.
By reading on you accept our use of cookies here.
The fox[1] lives in a burrow.[12][citation needed]
   "Even a quotation may end a line of text"
"""
CLEANED = """\
The quick brown fox jumps over the lazy dog.
He asked: "Is the fox quick?" She said it was!
The fox lives in a burrow.
"Even a quotation may end a line of text\""""


def test_c4_keeps_the_lines_that_read_like_sentences():
    assert C4().apply(PAGE) == CLEANED  # five sentences: the second line has two
    assert C4(min_sentences=5).apply(PAGE) == CLEANED
    assert C4(min_sentences=6).apply(PAGE) == Drop("sentences", "sentences 5, below 6")


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"terminal_punctuation": False}, "This line has no end that a sentence has"),
        ({"min_words_per_line": 3}, "Too short, this."),
        ({"javascript_lines": False}, "Please enable Javascript to see all of this page."),
        ({"policy_lines": False}, "By reading on you accept our use of cookies here."),
        ({"citations": False}, "The fox[1] lives in a burrow.[12][citation needed]"),
    ],
)
def test_each_of_c4s_rules_can_be_left_out(option, line):
    expected = line not in C4().apply(PAGE).splitlines()
    if option == {"citations": False}:  # the line ends in no mark of a sentence then
        option = {"citations": False, "terminal_punctuation": False}
    assert expected and line in C4(**option).apply(PAGE).splitlines()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Lorem Ipsum dolor sit amet.", "lorem ipsum at character 0"),
        (PAGE + "if (x) { y(); }", f"{{ at character {len(PAGE) + 7}"),
        ("One of five words here. Two of them are here.", "sentences 2, below 3"),
        ("", "sentences 0, below 3"),
        ("It has a word that is " + "x" * 1001 + ". And more. And more.", "sentences 0, below 3"),
    ],
)
def test_pages_that_c4_drops(text, why):
    verdict = C4().apply(text)
    assert isinstance(verdict, Drop) and verdict.why == why


def test_c4_on_documentation():
    kept = C4(terminal_punctuation=False, curly_brackets=False).apply(topics["with"])
    assert "context manager" in kept and "BLANK" not in kept
    assert C4().apply(topics["formatstrings"]).rule == "curly bracket"


LINES = st.lists(
    st.sampled_from(
        ["one two three four five.", "x", " [", "[1]", "1]", "[citation ", "needed]", "\n", ".", '"', "a b c d e!"]
    )
)


@given(LINES, st.booleans())
def test_what_c4_left_it_leaves(parts, terminal):
    step = C4(terminal_punctuation=terminal, min_sentences=0)
    once = step.apply("".join(parts))
    assert isinstance(once, Drop) or step.apply(once) == once


LONG = "a line of more than thirty characters, number {}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        # 12 of 100 lines end in punctuation, then 13.
        ("\n".join(LONG.format(i) + "." * (i < 12) for i in range(100)), "punctuated lines 0.12, not above 0.12"),
        ("\n".join(LONG.format(i) + "." * (i < 13) for i in range(100)), None),
        # One line of ten repeats, all of the same length; then one of eleven.
        ("\n".join(f"{i % 9:030}." for i in range(10)), "characters in duplicate lines 0.1, not below 0.1"),
        ("\n".join(f"{i % 10:030}." for i in range(11)), None),
        # 67 lines of 100 have 29 characters, then 66; lines of 30 are not short.
        ("\n".join(f"{i:0{28 if i < 67 else 29}}." for i in range(100)), "short lines 0.67, not below 0.67"),
        ("\n".join(f"{i:0{28 if i < 66 else 29}}." for i in range(100)), None),
        ("", "punctuated lines 0, not above 0.12"),
    ],
)
def test_fineweb_at_each_threshold(text, why):
    verdict = FineWebQuality().apply(text)
    assert verdict is text if why is None else isinstance(verdict, Drop) and verdict.why == why


def test_fineweb_keeps_documentation_and_drops_a_menu():
    verdicts = [FineWebQuality().apply(topic) for topic in topics.values() if len(topic) > 1000]
    assert sum(not isinstance(verdict, Drop) for verdict in verdicts) >= 0.8 * len(verdicts)
    assert FineWebQuality().apply("Home\nShop\nCart\nContact\nImprint").rule == "punctuated lines"
