"""Trains a byte-pair encoding on text and turns it into tiktoken's ranks.

The `tokenizers` library counts and merges (Rust, deterministic: ties go to the lower ids); tiktoken then applies the
result: where the trainer has a list of merges, tiktoken has one rank per token and merges the lowest rank first.
"""

from collections.abc import Iterable

from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trainable

from data.byte_characters import to_bytes
from data.errors import DataError
from data.tokenizer import END_OF_TEXT, PATTERN, Tokenizer


def train(texts: Iterable[str], vocab_size: int, name: str) -> Tokenizer:
    """An encoding of exactly `vocab_size` ids: 256 bytes, the merges, and <|endoftext|> last.

    The texts' order does not matter.

    Raises:
        DataError: the texts have too few distinct words for so many tokens.
    """
    trainable = Trainable(models.BPE())
    trainable.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
    )
    trainable.train_from_iterator(texts, trainer)
    ranks = _ranks(trainable.get_vocab())
    if len(ranks) != vocab_size - 1:
        raise DataError(
            f"tokenizer.vocab_size: the text allows only {len(ranks) + 1:,} tokens, {vocab_size:,} were asked for; "
            "ask for fewer or add text"
        )
    return Tokenizer(name, PATTERN, ranks, {END_OF_TEXT: len(ranks)})


def _ranks(vocabulary: dict[str, int]) -> dict[bytes, int]:
    """tiktoken ranks of a byte-level vocabulary: each byte is its own rank, then the merges in their order."""
    tokens = [to_bytes(token) for token in sorted(vocabulary, key=vocabulary.__getitem__)]
    merges = [token for token in tokens if len(token) > 1]
    return {token: rank for rank, token in enumerate([bytes([byte]) for byte in range(256)] + merges)}
