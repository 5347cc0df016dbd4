"""A card as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Sequence

from data.page.bars import Bar, bars, columns
from data.page.figure import colour_of
from data.page.shell import Section, whole_page
from data.page.tables import description_list, table
from data.prepare.card.blocks import (
    Amounts,
    Block,
    Card,
    Facts,
    Folded,
    Lengths,
    Listing,
    Part,
    Quote,
    Quotes,
    Table,
)
from data.words import join_words, plural

SMALL_COLUMN = 70  # pixels, the tallest


def as_page(card: Card) -> str:
    """The page."""
    return whole_page(
        name=card.name,
        state=card.summary,
        cards=card.headline,
        domains=card.domains,
        sections=[section(part, card.domains) for part in card.parts],
        notes=["Written by <code>brickyard prepare</code> from the manifest beside it."],
    )


def section(part: Part, domains: Sequence[str]) -> Section:
    return Section(part.id, part.question, part.answer, below=blocks_html(part.blocks, domains))


def blocks_html(blocks: Sequence[Block], domains: Sequence[str]) -> str:
    return "\n".join(block_html(block, domains) for block in blocks)


def block_html(block: Block, domains: Sequence[str]) -> str:
    match block:
        case Table():
            of_domains = domains if block.domains else ()
            rows = [(swatch(row[0], of_domains), row[1:]) for row in block.rows]
            return table(block.caption, block.columns, rows, block.words)
        case Amounts():
            return amounts(block, domains)
        case Lengths():
            return lengths(block, domains)
        case Facts():
            return description_list(block.entries)
        case Quotes():
            quotes = "\n".join(map(quote, block.quotes))
            return f'<h3>{html.escape(block.title)}</h3>\n<ul class="quotes">{quotes}</ul>'
        case Listing():
            return f'<pre tabindex="0">{html.escape(block.text)}</pre>'
        case Folded():
            state, name, inside = (
                " open" * block.is_open,
                swatch(block.name, domains),
                blocks_html(block.blocks, domains),
            )
            if all(isinstance(one, Table) for one in block.blocks):
                inside = f'<div class="beside">{inside}</div>'
            return f"<details{state}><summary>{name}</summary>\n{inside}\n</details>"


def amounts(block: Amounts, domains: Sequence[str]) -> str:
    rows = [
        Bar(name, value, block.words[name], colour_of(domains.index(name))) for name, value in block.of_domain.items()
    ]
    return figure(
        block.title, block.note, bars(f"{block.title}: {join_words([f'{b.name} {b.text}' for b in rows])}.", rows)
    )


def lengths(block: Lengths, domains: Sequence[str]) -> str:
    """In all, and small for each domain on the same scale of lengths."""
    label = f"{block.title}: {join_words([bar.text for bar in length_bars(block.counts, block.counts)])}."
    whole = figure(block.title, block.note, columns(label, length_bars(block.counts, block.counts)))
    if len(block.of_domain) == 1:
        return whole
    small = []
    for name, counts in block.of_domain.items():
        rows = length_bars(block.counts, counts, colour_of(domains.index(name)))
        picture = columns(f"{block.title} of {name}", rows, SMALL_COLUMN, named=3)
        small.append(f"<figure><h3>{swatch(name, domains)}</h3>{picture}</figure>")
    return f'{whole}\n<div class="small">{"".join(small)}</div>'


def length_bars(lows: dict[str, int], counts: dict[str, int], colour: str = "var(--accent)") -> list[Bar]:
    return [
        Bar(of_two(int(low)), counts.get(low, 0), f"{plural(counts.get(low, 0), 'document')} {in_tokens(low)}", colour)
        for low in lows
    ]


def of_two(power: int) -> str:
    """2048 as 2K: K is 1024 here, as powers of two are read."""
    return f"{power >> 20}M" if power >= 1 << 20 else f"{power >> 10}K" if power >= 1 << 10 else str(power)


def in_tokens(low: str) -> str:
    first = int(low)
    return "of 1 token" if first == 1 else f"of {first:,} to {2 * first - 1:,} tokens"


def figure(title: str, note: str, picture: str) -> str:
    return (
        f'<div class="plots"><figure><div class="title"><h3>{html.escape(title)}</h3></div>{picture}'
        f"<figcaption>{html.escape(note)}</figcaption></figure></div>"
    )


def quote(of: Quote) -> str:
    why = f"<small>{html.escape(of.why)}</small>" if of.why else ""
    after = "" if of.after is None else f" → <code>{html.escape(of.after)}</code>"
    return f"<li>{why}<code>{html.escape(of.before)}</code>{after}</li>"


def swatch(name: str, domains: Sequence[str]) -> str:
    """A name; behind a domain's colour if it is that of one."""
    if name not in domains:
        return html.escape(name)
    colour = colour_of(domains.index(name))
    return f'<span class="swatch" style="background:{colour}"></span>{html.escape(name)}'
