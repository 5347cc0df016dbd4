"""Tables as HTML."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence


def table(
    caption: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], words: Collection[int] = ()
) -> str:
    """A table whose first column names its rows; a row's name is HTML already, every other cell is text.

    Columns are numbers, one below the other, but for the first and those in `words`.
    """
    kinds = [' class="words"' if number in words else "" for number in range(len(columns))]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(column)}</th>' for column, kind in zip(columns, kinds, strict=True)
    )
    body = "\n".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(cells, kinds[1:], strict=True))
        + "</tr>"
        for name, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}">'
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def description_list(entries: Sequence[tuple[str, str]]) -> str:
    """Names and what they are, as text."""
    return (
        "<dl>"
        + "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in entries)
        + "</dl>"
    )
