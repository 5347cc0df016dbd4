"""A tiktoken encoding as a fast tokenizer of the `tokenizers` library, with the same ids for every text, and back."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from data.byte_characters import to_bytes, to_characters
from data.errors import DataError
from data.tokenizer import END_OF_TEXT, Tokenizer

# `{1,3}+` is a possessive repeat to tiktoken's regex engine and a repeated repeat to that of `tokenizers`, which writes
# it as an atomic group. `?+`, `*+` and `++` mean the same to both.
_POSSESSIVE_INTERVAL = re.compile(r"(\\[pP]\{\^?\w+\}|\\.|\[(?:\\.|[^\]\\])+\]|[^\\()\[\]{}|?*+])(\{\d+(?:,\d*)?\})\+")
# What the two engines could read differently: numbers, contractions, runs of white space, case, scripts, marks.
_PROBE = (
    "12345678 3.14159 x²½ 1٢３४ I'm you'LL it'S 'tis WE'VE d'accord  two\n\n\n  three \t\r\n end  \n"
    "naïve Straße ǅ ΟΔΟΣ привет こんにちは 漢字 한국어 العربية हिन्दी 👩🏽 "
    "e\u0301 \u00a0\u2003\u3000 \u200b\ufeff\x00\x1c\x85\u2028#!--- a_b"
    "   def f(x):\n\t\treturn {\"k\": [1, 22, 333, 4444]}  # comment!!!\r\n\r\n   "
)  # fmt: skip


def to_fast(tokenizer: Tokenizer, added: Mapping[str, int] | None = None) -> FastTokenizer:
    """The same encoding for `tokenizers`, with further special tokens `added` (name to unused id).

    A text that spells a special token becomes that token there, as with tiktoken's `encode(allowed_special="all")`.

    Raises:
        DataError: the pattern means something else to the regex engine of `tokenizers`.
    """
    specials = {**tokenizer.special_tokens, **(added or {})}
    # In the vocabulary too: otherwise added tokens are numbered on from the last rank, and cl100k_base has gaps.
    vocabulary = {to_characters(token): rank for token, rank in tokenizer.ranks.items()} | specials
    # tiktoken looks a whole word up before it merges anything: that is ignore_merges.
    fast = FastTokenizer(models.BPE(vocabulary, _merges(tokenizer.ranks), ignore_merges=True))
    try:
        split = pre_tokenizers.Split(Regex(_portable(tokenizer)), behavior="isolated")
    except DataError:
        raise
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise _inexpressible(tokenizer, str(error)) from None
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    fast.decoder = decoders.ByteLevel()
    in_order = sorted(specials, key=specials.__getitem__)
    fast.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in in_order])
    if fast.encode(_PROBE).ids != tokenizer.encoding.encode_ordinary(_PROBE):
        raise _inexpressible(tokenizer, "it splits a sample text otherwise there")
    return fast


def from_fast(path: Path) -> Tokenizer:
    """The tiktoken encoding that a tokenizer.json describes, named "imported".

    Raises:
        DataError: it can't be read, is damaged, is no byte-level BPE that merges in the order of its ids, or does more
            to a text than that.
    """
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
        tokenizer, merged = _read(parsed), _merged_ids(parsed["model"])
    except OSError as error:
        raise DataError(f"can't read {path} ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path} is damaged, or no byte-level BPE with a regex ({error!r})") from None
    missing = [byte for byte in range(256) if bytes([byte]) not in tokenizer.ranks]
    if missing or END_OF_TEXT not in tokenizer.special_tokens:
        lacking = f"token for byte {missing[0]}" if missing else f"special token {END_OF_TEXT}"
        raise DataError(f"{path} has no {lacking}")
    if merged != sorted(merged):
        raise DataError(f"{path} merges in another order than that of its ids, which tiktoken goes by")
    if _ids(path) != tokenizer.encoding.encode_ordinary(_PROBE):
        raise DataError(
            f"{path} changes a text before it is split (a normalizer, or a space before it): tiktoken can't"
        )
    return tokenizer


def _ids(path: Path) -> list[int]:
    """Of the sample text, as `tokenizers` itself reads the file."""
    try:
        fast = FastTokenizer.from_file(str(path))
        # transformers keeps in the file what its last call asked for; neither is part of the encoding.
        fast.no_truncation()
        fast.no_padding()
        return fast.encode(_PROBE, add_special_tokens=False).ids
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DataError(f"{path} can't be read ({error})") from None


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Every way to put each token together from two others, the lowest rank first.

    tiktoken has no list of merges: any two neighbours that make up a token may merge, and the lowest rank goes first.
    """
    return [
        (to_characters(token[:cut]), to_characters(token[cut:]))
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in _cuts(token, ranks)
    ]


def _cuts(token: bytes, ranks: Mapping[bytes, int]) -> Iterator[int]:
    cuts = [cut for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks]
    yield from sorted(cuts, key=lambda cut: (ranks[token[:cut]], ranks[token[cut:]]))


def _portable(tokenizer: Tokenizer) -> str:
    pattern = _POSSESSIVE_INTERVAL.sub(r"(?>\1\2)", tokenizer.pattern)
    if re.search(r"\{\d+(,\d*)?\}\+", pattern):
        raise _inexpressible(tokenizer, "a group has a possessive interval")
    return pattern


def _inexpressible(tokenizer: Tokenizer, reason: str) -> DataError:
    return DataError(f"the tokenizer {tokenizer.name} can't be made a fast one: its pattern is not portable ({reason})")


def _read(parsed: dict[str, Any]) -> Tokenizer:
    specials = {str(token["content"]): int(token["id"]) for token in parsed["added_tokens"]}
    ranks = {to_bytes(token): int(id) for token, id in parsed["model"]["vocab"].items() if token not in specials}
    steps = parsed["pre_tokenizer"].get("pretokenizers", [parsed["pre_tokenizer"]])
    (pattern,) = [step["pattern"]["Regex"] for step in steps if step["type"] == "Split"]
    return Tokenizer("imported", pattern, ranks, specials)


def _merged_ids(model: dict[str, Any]) -> list[int]:
    """What each merge makes, in the order of the merges."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return [int(model["vocab"][left + right]) for left, right in pairs]
