"""A tiktoken encoding with a name, an end-of-text token and a fingerprint; loaded from, and saved to, plain files.

A tokenizer folder holds `ranks.tiktoken` (tiktoken's own format: base64 token, space, rank) and `encoding.json`.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tiktoken

from data.errors import DataError
from data.manifest import canonical_json

END_OF_TEXT = "<|endoftext|>"
RANKS_FILE = "ranks.tiktoken"
ENCODING_FILE = "encoding.json"
# The pattern of cl100k_base without possessive quantifiers, which the trainer's regex engine reads differently.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Tokenizer:
    """What tokens mean. Equal fingerprints: equal ids for every text."""

    name: str
    pattern: str
    ranks: dict[bytes, int]  # token -> id
    special_tokens: dict[str, int]  # END_OF_TEXT is among them

    @cached_property
    def encoding(self) -> tiktoken.Encoding:
        """tiktoken's encoding; use `encode_ordinary`, so that a text that spells a special token stays text."""
        return tiktoken.Encoding(
            self.name, pat_str=self.pattern, mergeable_ranks=self.ranks, special_tokens=self.special_tokens
        )

    @cached_property
    def vocab_size(self) -> int:
        """The largest id plus one, special tokens included, not padded to any multiple."""
        return max(max(self.ranks.values()), *self.special_tokens.values()) + 1

    @property
    def end_of_text(self) -> int:
        """The id that ends every document."""
        return self.special_tokens[END_OF_TEXT]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ranks, pattern and special tokens; the name is no part of it."""
        content = {"pattern": self.pattern, "special_tokens": self.special_tokens}
        return hashlib.sha256(_ranks_bytes(self.ranks) + canonical_json(content).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the two files into FOLDER, made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        ranks = _ranks_bytes(self.ranks)
        (folder / RANKS_FILE).write_bytes(ranks)
        content = {
            "name": self.name,
            "pattern": self.pattern,
            "special_tokens": self.special_tokens,
            "vocab_size": self.vocab_size,
            "sha256": hashlib.sha256(ranks).hexdigest(),
        }
        (folder / ENCODING_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
            DataError: a file is missing or damaged, or the ranks are not those that encoding.json names.
        """
        path = Path(folder) / ENCODING_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name, pattern, sha256 = content["name"], content["pattern"], content["sha256"]
            special_tokens = {str(token): int(rank) for token, rank in content["special_tokens"].items()}
        except OSError as error:
            raise DataError(f"can't read the tokenizer's {path} ({error.strerror})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the tokenizer's {path} is damaged ({error!r}); restore it or prepare the dataset again"
            ) from None
        if END_OF_TEXT not in special_tokens:
            raise DataError(f"{path} names no {END_OF_TEXT} among its special_tokens; add it with an unused id")
        return cls(name, pattern, _read_ranks(Path(folder) / RANKS_FILE, sha256), special_tokens)


def from_ranks_file(path: Path) -> Tokenizer:
    """A tokenizer from a ranks file alone: cl100k's pattern, and <|endoftext|> as the one special token, last.

    Raises:
        DataError: the file is missing or is no ranks file.
    """
    ranks = _read_ranks(path)
    return Tokenizer(path.stem, PATTERN, ranks, {END_OF_TEXT: max(ranks.values()) + 1})


def cl100k_base() -> Tokenizer:
    """OpenAI's cl100k_base, from tiktoken's cache or downloaded once; tiktoken checks its hash.

    Raises:
        DataError: it is not in the cache and can't be downloaded.
    """
    from tiktoken_ext import openai_public

    return _cl100k_base(openai_public.cl100k_base)


def _cl100k_base(read: Callable[[], dict]) -> Tokenizer:
    try:
        parts = read()
    except Exception as error:  # requests, OS and hash errors of several libraries; all end in the same advice
        raise DataError(
            f"tiktoken can't get cl100k_base ({type(error).__name__}); on a machine without network set "
            "TIKTOKEN_CACHE_DIR to a folder that holds it under the name 9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
        ) from None
    return Tokenizer(parts["name"], parts["pat_str"], parts["mergeable_ranks"], parts["special_tokens"])


def _ranks_bytes(ranks: dict[bytes, int]) -> bytes:
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in in_order)


def _read_ranks(path: Path, sha256: str | None = None) -> dict[bytes, int]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"can't read the tokenizer's ranks {path} ({error.strerror})") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is not the file that {ENCODING_FILE} names (sha256 differs); restore it")
    ranks = {}
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise DataError(f"{path}, line {number}: expected a base64 token, a space and a rank") from None
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(
            f"{path} has no token for byte {missing[0]}, so it can't encode every text; use another ranks file"
        )
    if len(set(ranks.values())) != len(ranks):
        raise DataError(f"{path} gives one rank to two tokens; use another ranks file")
    return ranks
