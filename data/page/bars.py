"""Bars as SVG, where a page needs no more than that: drawn in percent of the width, so that letters keep their size."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from data.words import short

ROW = 36  # pixels: a line of text and a bar
TALLEST = 150  # column
LEFT = 9.0  # percent of the width, for the numbers of the scale
NAMED = 8  # columns whose names find room beside each other


@dataclass(frozen=True)
class Bar:
    """One amount of something."""

    name: str
    value: float
    text: str  # the value in words
    colour: str = "var(--accent)"


def bars(label: str, rows: Sequence[Bar]) -> str:
    """A bar below each name; `label` is read out in place of the picture."""
    most = max((bar.value for bar in rows), default=0) or 1
    drawn = []
    for place, bar in enumerate(rows):
        top = ROW * place
        drawn.append(
            f'<text x="0" y="{top + 14}">{html.escape(bar.name)}</text>'
            f'<text class="value" x="100%" y="{top + 14}" text-anchor="end">{html.escape(bar.text)}</text>'
            f'<rect class="track" x="0" y="{top + 20}" width="100%" height="8" rx="2"/>'
            f'<rect x="0" y="{top + 20}" width="{100 * bar.value / most:.2f}%" height="8" rx="2" fill="{bar.colour}"/>'
        )
    return svg(label, ROW * len(rows), drawn)


def columns(label: str, rows: Sequence[Bar], tallest: int = TALLEST, named: int = NAMED) -> str:
    """A column above each name, side by side, with a scale of counts; every so many are named that `named` fit."""
    most = max((bar.value for bar in rows), default=0) or 1
    width = (100 - LEFT) / max(len(rows), 1)
    every = -(-len(rows) // named)
    drawn = []
    for share in (1, 0.5):
        y = 12 + tallest * (1 - share)
        drawn.append(f'<line class="grid" x1="{LEFT}%" x2="100%" y1="{y:g}" y2="{y:g}"/>')
        drawn.append(f'<text class="value" x="0" y="{y + 4:g}">{short(most * share)}</text>')
    for place, bar in enumerate(rows):
        left, height = LEFT + width * place, tallest * bar.value / most
        title = f"<title>{html.escape(bar.text)}</title>"
        # A column of its own for the pointer, so that the lowest one can be read as well.
        drawn.append(
            f'<g><rect class="reach" x="{left:.2f}%" y="12" width="{width:.2f}%" height="{tallest}"/>'
            f'<rect x="{left + width / 20:.2f}%" y="{12 + tallest - height:.1f}" width="{0.9 * width:.2f}%" '
            f'height="{height:.1f}" fill="{bar.colour}"/>{title}</g>'
        )
        if place % every == 0:
            drawn.append(
                f'<text class="value" x="{left + width / 2:.2f}%" y="{tallest + 28}" text-anchor="middle">'
                f"{html.escape(bar.name)}</text>"
            )
    drawn.append(f'<line class="grid" x1="{LEFT}%" x2="100%" y1="{12 + tallest}" y2="{12 + tallest}"/>')
    return svg(label, tallest + 34, drawn)


def svg(label: str, height: int, drawn: Sequence[str]) -> str:
    return (
        f'<svg class="bars" role="img" aria-label="{html.escape(label)}" width="100%" height="{height}">'
        f"{''.join(drawn)}</svg>"
    )
