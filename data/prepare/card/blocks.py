"""What a card is made of, before it is written as HTML or as Markdown. All text is plain: who writes it escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it; with `domains` that is a domain's name, which has a colour."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    domains: bool = False

    @property
    def words(self) -> set[int]:
        """The columns that are not numbers."""
        return {place for place in range(len(self.columns)) if not any(row[place][:1].isdigit() for row in self.rows)}


@dataclass(frozen=True)
class Amounts:
    """An amount of each domain."""

    title: str
    note: str
    of_domain: dict[str, int]
    words: dict[str, str]  # domain -> its amount as it is read


@dataclass(frozen=True)
class Lengths:
    """Documents by number of tokens, in all and by domain: as a manifest has them."""

    title: str
    note: str
    counts: dict[str, int]
    of_domain: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Facts:
    """Names, and what they are."""

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Quote:
    """An example: a text and why it is shown; `after` is what it became."""

    why: str
    before: str
    after: str | None = None


@dataclass(frozen=True)
class Quotes:
    """Examples of one thing."""

    title: str
    quotes: Sequence[Quote]


@dataclass(frozen=True)
class Listing:
    """Lines as they are, of a language that has a name."""

    language: str
    text: str


@dataclass(frozen=True)
class Folded:
    """What most readers pass over."""

    name: str
    blocks: Sequence[Block]
    is_open: bool = False


Block = Table | Amounts | Lengths | Facts | Quotes | Listing | Folded


@dataclass(frozen=True)
class Part:
    """One question and its answer."""

    id: str
    question: str
    answer: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Card:
    """The whole of it."""

    name: str
    summary: str
    headline: Sequence[tuple[str, str, str]]  # name, value, what it is next to
    domains: Sequence[str]
    parts: Sequence[Part]
