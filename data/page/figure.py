"""Plots as plain data for plotly.js: the page's script adds what depends on the reader's screen."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# One colour per domain, the same in every plot and table; each stands out 3:1 from a white and from a dark page.
DOMAIN_COLOURS = (
    "#3b82d6", "#d9701a", "#2f9e58", "#9568d8", "#d9484f", "#1d9aa8", "#d05fa8", "#8f8a1e", "#a5703f", "#7d858f",
    "#5a6fe0", "#b5851a", "#6a991f", "#b04fc0", "#e0607a", "#2b9c86", "#5f86ab", "#b3786b", "#7a8f5a", "#9a75a2",
)  # fmt: skip
NEUTRAL = "#7d858f"  # what belongs to no domain

Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One plot: its data, and what it says in words for those who can't see it."""

    id: str
    title: str
    label: str  # read out in place of the picture
    note: str  # how to read it, below the picture
    data: list[Trace]
    y_title: str
    x_title: str = "tokens"
    height: int = 320
    y_axis: dict[str, Any] = field(default_factory=dict)
    x_axis: dict[str, Any] = field(default_factory=dict)
    wide: bool = False  # as wide as the page, where it would stand beside another one
    choices: Sequence[str] = ()  # of which the reader sees one: the trace of that number, or all that `of_choice` ties
    chosen: int = 0  # at first
    legend: bool = False  # names below, where the page's buttons are not the traces' own

    def for_script(self) -> dict[str, Any]:
        """What the page's script draws it from."""
        return {
            "data": self.data,
            "height": self.height,
            "chosen": self.chosen if self.choices else None,
            "legend": self.legend,
            "xaxis": {"title": {"text": self.x_title}, **self.x_axis},
            "yaxis": {"title": {"text": self.y_title}, **self.y_axis},
        }


def colour_of(number: int) -> str:
    return DOMAIN_COLOURS[number % len(DOMAIN_COLOURS)]


def numbers(values: NDArray[np.float64]) -> list[float | None]:
    """For JSON: what has no value is null; token counts stay whole, the rest keeps five digits."""
    return [number(float(value)) for value in values]


def number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else float(f"{value:.5g}")


def scatter(x: NDArray[np.float64], y: NDArray[np.float64], name: str, colour: str, **more: Any) -> Trace:
    """A line; a single point is drawn as one."""
    return {
        "type": "scatter",
        "mode": "lines" if len(x) > 1 else "markers",
        "x": numbers(x),
        "y": numbers(y),
        "name": html.escape(name),
        "line": {"color": colour, "width": 2},
        "marker": {"color": colour, "size": 6},
        "connectgaps": True,
        **more,
    }


def of_domain(number: int) -> dict[str, Any]:
    """Ties a trace to its domain's button."""
    return {"meta": {"domain": number}}


def of_choice(choice: int, number: int) -> dict[str, Any]:
    """Ties a trace to one of its figure's choices, and to a button."""
    return {"meta": {"domain": number, "choice": choice}}
