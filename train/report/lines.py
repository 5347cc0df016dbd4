"""Lines over tokens, as every section draws them."""

from __future__ import annotations

import math
from typing import Any

from data.page.figure import Trace, scatter
from train.report.reader import Column, RunRecord
from train.report.series import LINE_POINTS, extremes, present, smoothed, thinned


def rough_and_smooth(x: Column, y: Column, name: str, colour: str, **more: Any) -> list[Trace]:
    """The values as they came, faint, and what they come to."""
    raw = scatter(*extremes(*present(x, y)), name, colour, **more)
    raw |= {"opacity": 0.4, "hoverinfo": "skip", "line": {"color": colour, "width": 1}}
    return [raw, smooth(x, y, name, colour, **more)]


def smooth(x: Column, y: Column, name: str, colour: str, **more: Any) -> Trace:
    """What the values come to."""
    return scatter(*thinned(*present(x, smoothed(y))), name, colour, **more)


def faint(run: RunRecord, steps: str = "every step") -> str:
    """What the two lines of `rough_and_smooth` are."""
    count = len(run.steps)
    stretch = math.ceil(count / (LINE_POINTS // 2))
    rough = steps if count <= LINE_POINTS else f"the lowest and the highest of about {stretch:,} steps"
    return f"Faint: {rough}. Strong: moving mean."
