"""N-grams against brute force; signatures that estimate Jaccard; recall of the banding on real text."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.prepare.duplicates import minhash, words
from data.prepare.duplicates.choices import NearDuplicates

from planted import found_shares, jaccard, plant, real_texts

TEXT = st.text(st.sampled_from("ab c.É\n_1-"), max_size=60)
FOX = [14972037, 852958555, 274867321, 1214491238, 387154381, 53227818, 314545209, 789457537]
FOX_KEYS = [-6123727857279832004, -7415020025459616896]


@settings(deadline=None)  # the first one loads libraries
@given(st.lists(TEXT, max_size=8), st.integers(1, 6))
def test_ngrams_are_those_of_brute_force(texts, n):
    found = words.ngrams(texts, n, short=False)
    stops = np.cumsum(found.counts)
    with_short = words.ngrams(texts, n, short=True)
    for text, start, stop, count in zip(texts, stops - found.counts, stops, with_short.counts, strict=True):
        parted = re.findall(r"[^\W_]+", text.lower())
        windows = [" ".join(parted[i : i + n]) for i in range(len(parted) - n + 1)]
        assert [found.spell(i, n) for i in range(start, stop)] == windows
        assert len(set(found.hashes[start:stop].tolist())) == len(set(windows))
        assert count == (len(windows) or min(len(parted), 1))


def test_case_punctuation_and_layout_do_not_count_but_words_and_their_order_do():
    def hashes(text):
        return words.ngrams([text], 3, short=True).hashes.tolist()

    plain = hashes("it was the best of times")
    assert hashes("It was -- the BEST\n\n * of times!") == plain
    assert hashes("it was the best of time") != plain and hashes("was it the best of times") != plain
    assert len(hashes("最良の時代")) == 3  # a script without spaces: a word a character
    assert hashes("yes") == hashes("Yes!") != hashes("no") and hashes("!?") == hashes("") == []


def test_signatures_are_the_same_everywhere_and_in_any_company(monkeypatch):
    """The numbers are what this code gave when it was written: other ones would call other documents duplicates."""
    fox = "The quick brown fox jumps over the lazy dog"
    (alone,) = minhash.signatures([fox], 5, 8)
    assert alone.tolist() == FOX
    assert minhash.band_keys(alone[None], 2).tolist() == [FOX_KEYS]
    assert minhash.band_keys(minhash.signatures([], 5, 8), 2).shape == (0, 2)
    texts = [*real_texts(20, 200), "", fox, "!", "one"]
    together = minhash.signatures(texts, 5, 8)
    assert (together[-3] == alone).all() and (together[[-4, -2]] == minhash.NONE).all()
    monkeypatch.setattr(minhash, "CHUNK", 7)
    assert (minhash.signatures(texts, 5, 8) == together).all()
    monkeypatch.setattr(words, "PART_CHARACTERS", 5000)  # groups of a few texts, none of them cut
    assert (minhash.signatures(texts[::-1], 5, 8)[::-1] == together).all()


def test_a_text_of_many_parts_keeps_nearly_all_of_its_ngrams(monkeypatch):
    text = "\n".join(real_texts(20, 200))
    whole = minhash.signatures([text], 5, 160)
    monkeypatch.setattr(words, "PART_CHARACTERS", 4000)
    assert minhash.similarity(whole, minhash.signatures([text], 5, 160))[0] > 0.9


def test_the_estimate_is_unbiased_and_as_sharp_as_theory_says():
    pairs = [(text, plant(text, 0.7, seed)) for seed, text in enumerate(real_texts(200, 200))]
    true = np.array([jaccard(*pair) for pair in pairs])
    a, b = (minhash.signatures([pair[side] for pair in pairs], 5, 160) for side in (0, 1))
    errors = (minhash.similarity(a, b) - true) / np.sqrt(true * (1 - true) / 160)
    assert abs(errors.mean()) < 0.25 and 0.8 < errors.std() < 1.2


@pytest.mark.parametrize(
    ("similarity", "least", "most"), [(0.5, 0, 0.005), (0.6, 0, 0.03), (0.8, 0.95, 1), (0.9, 0.99, 1)]
)
def test_recall_at_a_known_similarity(similarity, least, most):
    """Of pairs of at least this Jaccard similarity and not much more."""
    pairs = [(text, plant(text, similarity, seed)) for seed, text in enumerate(real_texts(300, 200))]
    assert least <= found_shares(pairs, NearDuplicates())[1] <= most
