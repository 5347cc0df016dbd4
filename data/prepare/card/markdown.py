"""A card as Markdown, as GitHub and Hugging Face show it."""

from __future__ import annotations

import re

from data.prepare.card.blocks import Amounts, Block, Card, Facts, Folded, Lengths, Listing, Part, Quote, Quotes, Table
from data.words import percent

BAR = 24  # characters, the longest
# What no Markdown has a use for: letters, digits, and signs that mean something only beside others.
PLAIN = re.compile(r"(?:[^\W_]|[ ,%()–/;█]|(?<=[^\W_])[-_.'](?=[^\W_])|(?<=\w): (?=\w))*")


def as_markdown(card: Card) -> str:
    """The text."""
    headline = [f"**{value}** {name.lower()} {text(note)}" for name, value, note in card.headline]
    parts = "\n\n".join(part_markdown(part) for part in card.parts)
    return f"# {text(card.name)}\n\n{card.summary}\n\n{' · '.join(headline)}\n\n{parts}\n"


def part_markdown(part: Part) -> str:
    return "\n\n".join([f"## {part.question}", part.answer, *map(block_markdown, part.blocks)])


def block_markdown(block: Block) -> str:
    match block:
        case Table():
            return table(block)
        case Amounts():
            most = max(block.of_domain.values())
            rows = [[name, block.words[name], bar(value, most)] for name, value in block.of_domain.items()]
            return table(Table(block.title, ["domain", "tokens", ""], rows))
        case Lengths():
            return lengths(block)
        case Facts():
            return "\n".join(f"- {name}: {text(value)}" for name, value in block.entries)
        case Quotes():
            return "\n".join([f"{text(block.title)}:", "", *map(quote, block.quotes)])
        case Listing():
            fence = "`" * max(3, longest_ticks(block.text) + 1)
            return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
        case Folded():
            return "\n\n".join([f"### {text(block.name)}", *map(block_markdown, block.blocks)])


def lengths(block: Lengths) -> str:
    documents, most = sum(block.counts.values()), max(block.counts.values())
    rows = [
        [f"{int(low):,} to {2 * int(low) - 1:,}", f"{number:,}", percent(number / documents), bar(number, most)]
        for low, number in block.counts.items()
    ]
    return table(Table(block.title, ["tokens", "documents", "share", ""], rows))


def table(block: Table) -> str:
    words = block.words | {0}
    lines = [block.columns, ["---" if place in words else "---:" for place in range(len(block.columns))]]
    body = [[text(cell).replace("|", "\\|") for cell in row] for row in block.rows]
    return "\n".join([f"{block.caption}:", "", *(f"| {' | '.join(line)} |" for line in (*lines, *body))])


def quote(of: Quote) -> str:
    why = f"{text(of.why)}: " if of.why else ""
    return f"- {why}{code(of.before)}" + ("" if of.after is None else f" → {code(of.after)}")


def bar(value: float, most: float) -> str:
    return "█" * round(BAR * value / most) if value else ""


def text(words: str) -> str:
    """Words as they are, which no Markdown in them can change: as code, unless they are harmless."""
    return words if PLAIN.fullmatch(words) and "www." not in words.lower() else code(words)


def code(words: str) -> str:
    """In a line of code nothing means anything but its own end."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in words).split())
    ticks, space = "`" * (longest_ticks(line) + 1), " " * ("`" in line)
    return f"{ticks}{space}{line}{space}{ticks}" if line else "–"


def longest_ticks(words: str) -> int:
    return max((len(run) for run in re.findall("`+", words)), default=0)
