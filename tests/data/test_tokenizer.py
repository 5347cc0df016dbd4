"""Tokenizers: trained the same twice, saved and loaded the same, lossless on any text, clear when a file is wrong."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import tokenizer as tokenizers
from data.errors import DataError
from data.prepare import bpe
from data.prepare.tokens import PART_CHARACTERS, encode, token_dtype
from data.tokenizer import END_OF_TEXT, Tokenizer

SENTENCES = [f"the {a} of {b}s isn't {a}{b}, it's {i:05} naïve {b}\n" for i, (a, b) in enumerate(
    (a, b) for a in ("brick", "layer", "kiln", "mortar") for b in ("wall", "arch", "vault", "course")
)]  # fmt: skip
VOCAB_SIZE = 300
TRAINED = bpe.train(SENTENCES, VOCAB_SIZE, "test")


def test_training_is_deterministic_and_does_not_depend_on_the_order_of_texts():
    shuffled = random.Random(0).sample(SENTENCES, len(SENTENCES))
    for again in (bpe.train(SENTENCES, VOCAB_SIZE, "a"), bpe.train(shuffled, VOCAB_SIZE, "b")):
        assert again.ranks == TRAINED.ranks
        assert again.fingerprint == TRAINED.fingerprint
    assert bpe.train(SENTENCES[:8], VOCAB_SIZE, "test").fingerprint != TRAINED.fingerprint


def test_a_trained_encoding_has_exactly_the_vocabulary_asked_for():
    assert TRAINED.vocab_size == TRAINED.encoding.n_vocab == VOCAB_SIZE
    assert TRAINED.end_of_text == VOCAB_SIZE - 1
    assert sorted(TRAINED.ranks.values()) == list(range(VOCAB_SIZE - 1))
    assert all(TRAINED.ranks[bytes([byte])] == byte for byte in range(256))
    assert len(TRAINED.encoding.encode_ordinary(SENTENCES[0])) < len(SENTENCES[0]) / 1.5, "the merges are not used"


def test_too_little_text_is_the_users_mistake():
    with pytest.raises(DataError, match="vocab_size: the text allows only"):
        bpe.train(["abab"], 1000, "test")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_and_ends_with_its_only_end_of_text(text):
    ids = encode(TRAINED, text).tolist()
    assert ids[-1] == TRAINED.end_of_text
    assert ids[:-1] == TRAINED.encoding.encode_ordinary(text)
    assert TRAINED.end_of_text not in ids[:-1]
    assert TRAINED.encoding.decode(ids[:-1]) == text


def test_a_text_that_spells_the_special_token_stays_text():
    text = f"before {END_OF_TEXT} after"
    ids = encode(TRAINED, text).tolist()
    assert ids[:-1] == TRAINED.encoding.encode_ordinary(text)
    assert ids.count(TRAINED.end_of_text) == 1
    assert TRAINED.encoding.decode(ids[:-1]) == text


def test_a_text_too_long_for_the_regex_engine_survives():
    text = "x" + " " * (7 * PART_CHARACTERS + 3) + "y"
    assert TRAINED.encoding.decode(encode(TRAINED, text).tolist()[:-1]) == text


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TRAINED.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded == TRAINED
    assert loaded.fingerprint == TRAINED.fingerprint
    assert json.loads((tmp_path / "encoding.json").read_text())["vocab_size"] == VOCAB_SIZE
    from_file = tokenizers.from_ranks_file(tmp_path / "ranks.tiktoken")
    assert (from_file.ranks, from_file.end_of_text) == (TRAINED.ranks, TRAINED.end_of_text)


def test_the_ranks_file_is_the_one_tiktoken_reads(tmp_path):
    from tiktoken.load import load_tiktoken_bpe

    TRAINED.save(tmp_path)
    assert load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken")) == TRAINED.ranks


def test_the_fingerprint_covers_ranks_pattern_and_special_tokens_but_not_the_name():
    a = TRAINED
    assert Tokenizer("other name", a.pattern, a.ranks, a.special_tokens).fingerprint == a.fingerprint
    swapped = {**a.ranks, b"a": a.ranks[b"b"], b"b": a.ranks[b"a"]}
    assert Tokenizer(a.name, a.pattern, swapped, a.special_tokens).fingerprint != a.fingerprint
    assert Tokenizer(a.name, r"\s|\S", a.ranks, a.special_tokens).fingerprint != a.fingerprint
    assert Tokenizer(a.name, a.pattern, a.ranks, {END_OF_TEXT: 4000}).fingerprint != a.fingerprint


def test_damaged_files_are_refused(tmp_path):
    TRAINED.save(tmp_path)
    ranks = tmp_path / "ranks.tiktoken"
    whole = ranks.read_bytes()
    ranks.write_bytes(whole[:-9])
    with pytest.raises(DataError, match="sha256 differs"):
        Tokenizer.load(tmp_path)
    ranks.write_bytes(b"not base64! 3\n" + whole)
    with pytest.raises(DataError, match="line 1: expected a base64 token"):
        tokenizers.from_ranks_file(ranks)
    ranks.write_bytes(b"".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match="no token for byte 0"):
        tokenizers.from_ranks_file(ranks)
    ranks.write_bytes(whole + b"YWFhYWFhYWE= 7\n")
    with pytest.raises(DataError, match="one rank to two tokens"):
        tokenizers.from_ranks_file(ranks)
    ranks.unlink()
    with pytest.raises(DataError, match="can't read the tokenizer's ranks"):
        Tokenizer.load(tmp_path)
    (tmp_path / "encoding.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        Tokenizer.load(tmp_path)


def test_cl100k_base_without_file_or_network_says_where_to_put_the_file(tmp_path, monkeypatch):
    def no_network(path):
        raise ConnectionError("no network")

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.load.read_file", no_network)
    with pytest.raises(
        DataError, match=r"ConnectionError.*TIKTOKEN_CACHE_DIR.*9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    ):
        tokenizers.cl100k_base()
    # A damaged cached file is not used either.
    (tmp_path / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4").write_bytes(b"IQ== 0\n")
    with pytest.raises(DataError, match="can't get cl100k_base"):
        tokenizers.cl100k_base()


def test_cl100k_base_is_made_of_the_parts_tiktoken_gives():
    parts = {"name": "cl100k_base", "pat_str": TRAINED.pattern, "mergeable_ranks": TRAINED.ranks}
    specials = {END_OF_TEXT: 400, "<|endofprompt|>": 419}
    made = tokenizers._cl100k_base(lambda: {**parts, "special_tokens": specials})
    assert (made.vocab_size, made.end_of_text) == (420, 400)
    assert made.encoding.n_vocab == 420
    assert made.encoding.encode_ordinary(SENTENCES[0]) == TRAINED.encoding.encode_ordinary(SENTENCES[0])


def test_ids_fit_their_type():
    assert (token_dtype(1 << 16), token_dtype((1 << 16) + 1)) == ("uint16", "uint32")
