"""Tokens become text as they come: whole characters, up to the document's end."""

from collections.abc import Iterator

from data.prepare import bpe
from train.generation import text_of

TOKENIZER = bpe.train(["the bricks of the wall\n" * 3, "the kiln's arch\n" * 3], 270, "test")


def ids(text: str) -> list[int]:
    return TOKENIZER.encoding.encode_ordinary(text)


def test_a_character_of_several_tokens_comes_whole() -> None:
    text = "naïve 漢字 👩🏽 the wall"
    pieces = [*text_of(TOKENIZER, ids(text))]
    assert "".join(pieces) == text
    assert len(ids("👩")) == 4
    assert "👩" in pieces


def test_a_piece_comes_before_the_next_token_is_drawn() -> None:
    drawn: list[int] = []

    def slow() -> Iterator[int]:
        for token in ids("the wall"):
            drawn.append(token)
            yield token

    for count, _ in enumerate(text_of(TOKENIZER, slow()), start=1):
        assert len(drawn) == count
    assert len(drawn) == len(ids("the wall")) > 2


def test_it_ends_with_the_document() -> None:
    assert "".join(text_of(TOKENIZER, [*ids("the wall"), TOKENIZER.end_of_text, *ids(" and more")])) == "the wall"


def test_a_character_that_is_cut_off_is_shown_as_such() -> None:
    assert "".join(text_of(TOKENIZER, ids("a漢")[:-1])) == "a�"
