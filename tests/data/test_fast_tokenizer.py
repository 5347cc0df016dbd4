"""A fast tokenizer gives tiktoken's ids, on real text and for every way in which an encoding may differ."""

import json
from typing import Any

import pytest
from tiktoken_ext import openai_public
from tokenizers.normalizers import NFC

from data import tokenizer as tokenizers
from data.errors import DataError
from data.fast_tokenizer import from_fast, to_fast
from data.prepare import bpe
from data.tokenizer import END_OF_TEXT, Tokenizer

from real_lines import real_lines

TRAINED = bpe.train(real_lines()[::3], 3000, "trained")


def cl100k_pattern(monkeypatch: pytest.MonkeyPatch) -> str:
    """The one that tiktoken has for cl100k_base, with its possessive quantifiers; the ranks may be out of reach."""
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    return openai_public.cl100k_base()["pat_str"]


def with_pattern(pattern: str) -> Tokenizer:
    return Tokenizer("other", pattern, TRAINED.ranks, TRAINED.special_tokens)


def assert_same_ids(tokenizer: Tokenizer, lines: list[str]) -> None:
    fast = to_fast(tokenizer)
    expected = tokenizer.encoding.encode_ordinary_batch(lines, num_threads=1)
    for line, found, ids in zip(lines, fast.encode_batch(lines), expected, strict=True):
        assert found.ids == ids, line
    for line, ids in zip(lines[::10], expected[::10], strict=True):
        assert fast.decode(ids, skip_special_tokens=False) == line


def test_there_are_ten_thousand_different_lines_and_many_leave_ascii() -> None:
    lines = real_lines()
    assert len(set(lines)) == len(lines) == 10_000
    assert sum(not line.isascii() for line in lines) > 2_000
    assert len({character for line in lines for character in line}) > 1_500


def test_a_trained_encoding_on_ten_thousand_lines() -> None:
    assert_same_ids(TRAINED, [line for line in real_lines() if END_OF_TEXT not in line])


def test_cl100ks_own_pattern_on_ten_thousand_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_pattern(cl100k_pattern(monkeypatch))
    assert "{1,3}+" in tokenizer.pattern  # what the engines read differently
    assert_same_ids(tokenizer, [line for line in real_lines() if END_OF_TEXT not in line])


def test_cl100k_itself_on_ten_thousand_lines() -> None:
    try:
        tokenizer = tokenizers.cl100k_base()
    except DataError as error:
        pytest.skip(str(error))
    assert_same_ids(tokenizer, [line for line in real_lines() if "<|" not in line])


def test_whole_documents() -> None:
    lines = [line for line in real_lines() if END_OF_TEXT not in line]
    assert_same_ids(TRAINED, ["".join(lines[start : start + 100]) for start in range(0, 3000, 100)])


def test_special_tokens_keep_their_ids_and_more_may_be_added() -> None:
    far = Tokenizer("gaps", TRAINED.pattern, TRAINED.ranks, {END_OF_TEXT: 3100, "<|fim|>": 3107})
    fast = to_fast(far, {"<|pad|>": 3108})
    text = f"one<|fim|>two {END_OF_TEXT}<|pad|> three"
    assert fast.token_to_id("<|pad|>") == 3108
    ids = [id for id in fast.encode(text).ids if id != 3108]
    assert ids == far.encoding.encode(text.replace("<|pad|>", ""), allowed_special="all")
    assert fast.decode(fast.encode(text).ids, skip_special_tokens=False) == text


def test_words_that_no_merge_reaches_are_found_whole() -> None:
    """tiktoken looks a word up before it merges; `zq` and `qz` are no tokens, so `zqz` comes about no other way."""
    ranks = {**TRAINED.ranks, b"zqz": 2999}
    assert b"zq" not in ranks
    assert b"qz" not in ranks
    odd = Tokenizer("odd", TRAINED.pattern, ranks, {END_OF_TEXT: 3000})
    assert odd.encoding.encode_ordinary("zqz zqz") == to_fast(odd).encode("zqz zqz").ids
    assert odd.encoding.encode_ordinary("zqz")[0] == 2999


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(?:a|b){1,3}+|\s+|\S+", "a group has a possessive interval"),
        (r"\S+$|\s|\S", "splits a sample text otherwise"),  # $ ends a line there, the text here
        (r"(?P<word>\w+)|\W", "undefined group option"),
    ],
)
def test_a_pattern_that_means_something_else_there_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"its pattern is not portable .*{reason}"):
        to_fast(with_pattern(pattern))


def test_it_comes_back(tmp_path: Any) -> None:
    path = tmp_path / "tokenizer.json"
    to_fast(TRAINED, {"<|pad|>": 3000}).save(str(path))
    back = from_fast(path)
    assert back.ranks == TRAINED.ranks
    assert back.special_tokens == {**TRAINED.special_tokens, "<|pad|>": 3000}
    assert back.encoding.encode_ordinary_batch(real_lines()[:2000]) == TRAINED.encoding.encode_ordinary_batch(
        real_lines()[:2000]
    )


def test_truncation_and_padding_that_were_saved_are_no_part_of_it(tmp_path: Any) -> None:
    path = tmp_path / "tokenizer.json"
    fast = to_fast(TRAINED)
    fast.enable_truncation(4)
    fast.enable_padding(length=1000)
    fast.save(str(path))
    assert from_fast(path).ranks == TRAINED.ranks


def test_cl100ks_pattern_comes_back_with_the_same_meaning(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_pattern(cl100k_pattern(monkeypatch))
    path = tmp_path / "tokenizer.json"
    to_fast(tokenizer).save(str(path))
    lines = real_lines()[:3000]
    assert from_fast(path).encoding.encode_ordinary_batch(lines) == tokenizer.encoding.encode_ordinary_batch(lines)


def swap_merges(content: dict[str, Any]) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[-1] = merges[-1], merges[0]


def drop_a_byte(content: dict[str, Any]) -> None:
    del content["model"]["vocab"]["!"]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (swap_merges, "merges in another order"),
        (drop_a_byte, "has no token for byte 33"),
        (lambda content: content["model"].pop("vocab"), "is damaged, or no byte-level BPE"),
        (lambda content: content.update(added_tokens=[]), f"has no special token .*{END_OF_TEXT[2:-2]}"),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "no byte-level BPE with a regex"),
    ],
)
def test_what_is_no_tiktoken_encoding_is_refused(tmp_path: Any, damage: Any, sentence: str) -> None:
    content = json.loads(to_fast(TRAINED).to_str())
    damage(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=sentence):
        from_fast(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        from_fast(path)


@pytest.mark.parametrize("what", ["normalizer", "prefix space"])
def test_a_file_that_does_more_to_a_text_is_refused(tmp_path: Any, what: str) -> None:
    """Its ids would be others than those of what is made of it."""
    path = tmp_path / "tokenizer.json"
    fast = to_fast(TRAINED)
    if what == "normalizer":
        fast.normalizer = NFC()
    fast.save(str(path))
    if what == "prefix space":
        path.write_text(path.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true', 1))
    with pytest.raises(DataError, match="changes a text before it is split"):
        from_fast(path)
