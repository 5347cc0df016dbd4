"""Gopher's rules at their published thresholds, against numbers worked out by hand and a plain count."""

import sys
from collections import Counter
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prepare.cleaning.gopher import GopherQuality, GopherRepetition
from data.prepare.cleaning.verdict import Drop

FIFTY = ["the", "stone", "house", "of", "Ann"] * 10  # stop words: the, of
NO_LIMITS = {
    "max_duplicate_lines": 1,
    "max_duplicate_paragraphs": 1,
    "max_duplicate_line_characters": 1,
    "max_duplicate_paragraph_characters": 1,
}


def lines_of(bulleted=0, trailing=0):
    """Ten lines of eight words, so many of them with a bullet, so many with an ellipsis at the end."""
    return "\n".join(
        " ".join(
            [
                "-" if i < bulleted else "and",
                *["stone", "house", "stood", "at", "the", "end", "of"],
                "it…" if i < trailing else "it",
            ]
        )
        for i in range(10)
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" ".join(FIFTY), None),
        (" ".join(FIFTY[:49]), "words 49, below 50"),
        (" ".join(FIFTY * 2000), None),
        (" ".join(FIFTY * 2000 + ["more"]), "words 100,001, above 100,000"),
        (" ".join(["the", "and"] * 25), None),  # mean word length 3
        (" ".join(["the", "and"] * 24 + ["of", "it"]), "mean word length 2.96, below 3"),
        (" ".join(["the", "and"] + ["absolutely"] * 46 + ["counterproductive"] * 2), None),  # 10: 500 characters
        (
            " ".join(["the", "and"] + ["absolutely"] * 45 + ["counterproductive"] * 3),
            "mean word length 10.14, above 10",
        ),
        (" ".join([*FIFTY[:45], *["#tag"] * 5]), None),
        (" ".join([*FIFTY[:44], *["#tag"] * 6]), "# to words 0.12, above 0.1"),
        (" ".join([*FIFTY[:44], *["so..."] * 3, *["so…"] * 2, "end"]), None),
        (" ".join([*FIFTY[:43], *["so..."] * 3, *["so…"] * 3, "end"]), "ellipses to words 0.12, above 0.1"),
        (lines_of(bulleted=9), None),
        (lines_of(bulleted=10), "bullet lines 1, above 0.9"),
        (lines_of(trailing=3), None),
        (lines_of(trailing=4), "ellipsis lines 0.4, above 0.3"),
        (" ".join([*FIFTY[:40], *["2024,"] * 10]), None),
        (" ".join([*FIFTY[:39], *["2024,"] * 11]), "alphabetic words 0.78, below 0.8"),
        (" ".join(["THE", "stone", "house", "with"] * 13), None),
        (" ".join(["THE", "stone", "house", "there"] * 13), "stop words 1, below 2"),
        ("", "words 0, below 50"),
    ],
)
def test_quality_at_each_threshold(text, why):
    verdict = GopherQuality().apply(text)
    assert verdict is text if why is None else verdict == Drop(why[: why.rindex(" ", 0, why.index(","))], why)


def test_documentation_is_prose_and_a_list_of_names_is_none():
    verdicts = {name: GopherQuality().apply(topic) for name, topic in topics.items() if len(topic) > 1000}
    kept = [name for name, verdict in verdicts.items() if not isinstance(verdict, Drop)]
    assert len(kept) >= 0.9 * len(verdicts) > 40
    assert isinstance(GopherQuality().apply(" ".join(sys.stdlib_module_names)), Drop)


def numbered(count, start=0):
    """Different words of four characters."""
    return [f"w{number:03}" for number in range(start, start + count)]


@pytest.mark.parametrize(
    ("parts", "end", "again", "kind"),
    [
        (10, "\n", 3, "lines"),
        (10, "\n\n", 3, "paragraphs"),
    ],
)
def test_repeated_lines_and_paragraphs(parts, end, again, kind):
    """Three short ones of ten repeat one before: 0.3 of them. Characters: 3 of 7 * 40 + 4 -> 0.01."""

    def text(number):
        return end.join(["a" * 40 + str(i) for i in range(parts - number - 1)] + ["b"] * (number + 1))

    step = GopherRepetition(max_duplicate_lines=0.3 if kind == "lines" else 1)
    assert step.apply(text(again)) == text(again)
    verdict = step.apply(text(again + 1))
    assert verdict == Drop(f"duplicate {kind}", f"duplicate {kind} 0.4, above 0.3")


@pytest.mark.parametrize("kind", ["lines", "paragraphs"])
def test_characters_in_repeated_lines_and_paragraphs(kind):
    """One of ten repeats: 0.1 of them, and 36 of 180 characters, which is 0.2; then 37 of 182."""

    def text(size):
        longest = "".join(f"{i:x}" for i in range(40))[:size]
        return ("\n" if kind == "lines" else "\n\n").join(
            [*(f"{i:012}"[:12] + "ab" for i in range(7)), "tenchar+ab", longest, longest]
        )

    step = GopherRepetition(max_duplicate_line_characters=0.2 if kind == "lines" else 1)
    assert step.apply(text(36)) == text(36)
    rule = f"characters in duplicate {kind}"
    assert step.apply(text(37)) == Drop(rule, f"{rule} 0.2033, above 0.2")


@pytest.mark.parametrize(
    ("length", "times", "others"),
    # n * times of n * times + others words: 50 of 250, 54 of 300, 64 of 400.
    [(2, 25, 200), (3, 18, 246), (4, 16, 336)],
)
def test_the_most_frequent_ngram(length, times, others):
    """Copies of a block among words that are all different, of four characters each; then one word fewer of those."""

    def text(count):
        fill, block = numbered(count), numbered(length, 900)
        parts = [fill[i * count // times : (i + 1) * count // times] + block for i in range(times)]
        return " ".join(word for part in parts for word in part)

    step = GopherRepetition(duplicate_ngrams={})
    assert step.apply(text(others)) == text(others)
    verdict = step.apply(text(others - 1))
    assert isinstance(verdict, Drop) and verdict.rule == f"characters in the top {length}-gram"


@pytest.mark.parametrize(
    ("length", "others"),
    # One block and six copies, words of four characters: 24 n characters are duplicates, 4 (7 n + others) in all.
    [(5, 165), (6, 216), (7, 275), (8, 344), (9, 428), (10, 530)],
)
def test_duplicate_ngrams(length, others):
    def text(count):
        fill, block = numbered(count), numbered(length, 900)
        parts = [fill[i * count // 7 : (i + 1) * count // 7] + block for i in range(7)]
        return " ".join(word for part in parts for word in part)

    assert GopherRepetition().apply(text(others)) == text(others)
    verdict = GopherRepetition().apply(text(others - 1))
    assert isinstance(verdict, Drop) and verdict.rule == f"characters in duplicate {length}-grams"


def plain_count(words, length):
    """Fractions of the characters in the top n-gram, if it comes twice, and in n-grams seen before."""
    grams = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    counts = Counter(grams)
    if not counts or max(counts.values()) < 2:
        return 0, 0
    most = max(counts.values())
    longest = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
    top = next(gram for gram in grams if counts[gram] == most and sum(map(len, gram)) == longest)
    in_top, again = set(), set()
    for place, gram in enumerate(grams):
        if gram == top:
            in_top.update(range(place, place + length))
        if gram in grams[:place]:
            again.update(range(place, place + length))
    total = sum(map(len, words))
    return sum(len(words[i]) for i in in_top) / total, sum(len(words[i]) for i in again) / total


@given(st.lists(st.sampled_from(["a", "bb", "ccc", "dddd"]), max_size=60), st.integers(2, 6))
def test_ngrams_against_a_plain_count(words, length):
    text = " ".join(words)
    for fraction, key in zip(plain_count(words, length), ("top_ngrams", "duplicate_ngrams"), strict=True):
        others = {"top_ngrams": {}, "duplicate_ngrams": {}}
        at = GopherRepetition(**NO_LIMITS, **{**others, key: {length: fraction}})
        below = GopherRepetition(**NO_LIMITS, **{**others, key: {length: fraction - 1e-9}})
        assert at.apply(text) == text
        assert isinstance(below.apply(text), Drop) == (fraction > 0)


def test_ngrams_of_documentation_against_a_plain_count():
    words = topics["with"].split()[:400]
    for length in (2, 5, 10):
        for fraction, key in zip(plain_count(words, length), ("top_ngrams", "duplicate_ngrams"), strict=True):
            limits = {"top_ngrams": {}, "duplicate_ngrams": {}, key: {length: fraction}}
            assert not isinstance(GopherRepetition(**NO_LIMITS, **limits).apply(" ".join(words)), Drop)


def test_documentation_is_no_repetition_and_a_menu_is():
    verdicts = [GopherRepetition().apply(topic) for topic in topics.values() if len(topic) > 1000]
    assert sum(not isinstance(verdict, Drop) for verdict in verdicts) >= 0.85 * len(verdicts)
    assert isinstance(GopherRepetition().apply("Home\nShop\nCart\n" * 20), Drop)
