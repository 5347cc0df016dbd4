"""The mixture over training in characters: each column is a time, each domain has its share of the height."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from data.mixture.plan import Plan
from data.page.figure import colour_of
from data.words import change, short

FEWEST_ROWS = 10
FEWEST_COLUMNS, MOST_COLUMNS = 20, 72
LONGEST_NAME = 16
IN_ASCII = str.maketrans("│└─┴", "|+-+")

Levels = NDArray[np.float64]


def draw_mixture(summary: dict[str, Any], plan: Plan, console: Console) -> Text:
    """The weights over the run, with a legend: in colours where the console has enough of them, else in letters."""
    ascii_only = console.options.ascii_only
    coloured = console.color_system in ("256", "truecolor") and not console.no_color and not ascii_only
    rows = max(FEWEST_ROWS, len(plan.domains))
    key = legend(plan, summary["samples"], coloured)
    margins = len(axis(0, rows)) + 2 + max(line.cell_len for line in key)
    columns = min(MOST_COLUMNS, max(FEWEST_COLUMNS, console.width - margins))
    times = (np.arange(columns) + 0.5) / columns * summary["samples"]
    levels = np.array([plan.weights(int(time)) for time in times]).cumsum(axis=1)
    cells = colours(levels, rows) if coloured else letters(levels, rows, marks(plan.domains))
    lines = [
        Text.assemble(axis(row, rows), cell, "  ", key[row] if row < len(key) else "") for row, cell in enumerate(cells)
    ]
    drawing = Text("\n").join([*lines, *map(Text, time_axis(summary, columns))])
    return Text(drawing.plain.translate(IN_ASCII)) if ascii_only else drawing


def axis(row: int, rows: int) -> str:
    return {0: "100% │", rows // 2: " 50% │"}.get(row, "     │")


def time_axis(summary: dict[str, Any], columns: int) -> tuple[str, str]:
    """The line below the drawing with a mark at each anchor, and the tokens at the marks, as far as there is room."""
    anchors = [anchor["tokens"] for anchor in summary["anchors"] if 0 < anchor["tokens"] < summary["tokens"]]
    marked = [(int(tokens / summary["tokens"] * columns), short(tokens)) for tokens in anchors]
    line = ["─"] * columns
    words = list(f"0{short(summary['tokens']):>{columns - 1}}")
    for column, tokens in marked:
        line[column] = "┴"
        around = slice(max(0, column - 1), column + len(tokens) + 1)
        if "".join(words[around]).isspace():
            words[column : column + len(tokens)] = tokens
    margin = " " * (len(axis(0, 1)) - 1)
    return f"{margin}└{''.join(line)}", f"{margin} {''.join(words)}"


def domain_at(levels: Levels, height: float) -> list[int]:
    """For each column, the domain that lies at this height from the top, which is 0.

    Args:
        levels: [columns, domains] where each domain ends.
    """
    return (levels[:, :-1] < height).sum(axis=1).tolist()


def colours(levels: Levels, rows: int) -> Iterator[Text]:
    """Two domains to a character: the colour of its upper half and that of its lower half."""
    for row in range(rows):
        halves = zip(domain_at(levels, (row + 0.25) / rows), domain_at(levels, (row + 0.75) / rows), strict=True)
        yield Text.assemble(*(("▀", f"{colour_of(upper)} on {colour_of(lower)}") for upper, lower in halves))


def letters(levels: Levels, rows: int, marks: Sequence[str]) -> Iterator[Text]:
    for row in range(rows):
        yield Text("".join(marks[domain] for domain in domain_at(levels, (row + 0.5) / rows)))


def marks(domains: Sequence[str]) -> list[str]:
    """A character for each domain: one of its own name that is still free, or the next free one."""
    taken: list[str] = []
    for domain in domains:
        free = (c for c in domain + string.printable if c.isalnum() and c not in taken)
        taken.append(next(free, "?"))
    return taken


def legend(plan: Plan, samples: int, coloured: bool) -> list[Text]:
    """A line for each domain, in the drawing's order: its colour or letter, and its weight at first and at the end."""
    names = [name if len(name) <= LONGEST_NAME else f"{name[:6]}...{name[-7:]}" for name in plan.domains]
    width = max(map(len, names))
    lines = []
    for number, (name, mark) in enumerate(zip(names, marks(plan.domains), strict=True)):
        weights = change(plan.weights(0)[number], plan.weights(samples - 1)[number], ".1%", "->")
        key = ("■", colour_of(number)) if coloured else mark
        lines.append(Text.assemble(key, f" {name:<{width}}  {weights}"))
    return lines
