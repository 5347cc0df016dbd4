"""From 100,000 steps to a line that a page can carry and an eye can follow."""

from __future__ import annotations

import itertools
import math

import numpy as np

from train.report.reader import Column

LINE_POINTS = 1000
DOTS = 150


def present(x: Column, y: Column) -> tuple[Column, Column]:
    """The points that have a value."""
    kept = np.isfinite(y)
    return x[kept], y[kept]


def smooth_window(steps: int) -> int:
    """Steps that a smoothed point looks at on either side."""
    return math.ceil(steps / 60) if steps > 5 else 0


def smoothed(y: Column) -> Column:
    """A moving mean of the finite values. The window shrinks towards the start, where a loss falls steeply, so that it
    stays centred there and does not lag."""
    length = len(y)
    index = np.arange(length)
    half = np.minimum(smooth_window(length), index)
    first, last = index - half, np.minimum(index + half + 1, length)
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    counted = counts[last] - counts[first]
    return np.where(counted > 0, (sums[last] - sums[first]) / np.maximum(counted, 1), math.nan)


def thinned(x: Column, y: Column, points: int = LINE_POINTS) -> tuple[Column, Column]:
    """At most `points` of a smooth line, the first and the last among them."""
    if len(x) <= points:
        return x, y
    kept = np.linspace(0, len(x) - 1, points).round().astype(int)
    return x[kept], y[kept]


def extremes(x: Column, y: Column, points: int = LINE_POINTS) -> tuple[Column, Column]:
    """At most `points` of a rough line: the lowest and the highest of every stretch, so that no spike is lost."""
    if len(x) <= points:
        return x, y
    kept = [first + pick(part) for first, part in stretches(y, points // 2) for pick in (np.argmin, np.argmax)]
    order = np.unique(kept)
    return x[order], y[order]


def means(x: Column, y: Column, points: int = DOTS) -> tuple[Column, Column]:
    """At most `points` means over stretches of equal length, each at its stretch's middle."""
    if len(x) <= points:
        return x, y
    parts = zip(np.array_split(x, points), np.array_split(y, points), strict=True)
    return tuple(np.array([(part_x.mean(), part_y.mean()) for part_x, part_y in parts]).T)


def stretches(y: Column, count: int) -> list[tuple[int, Column]]:
    """(first index, values) of `count` stretches that cover `y`."""
    edges = np.linspace(0, len(y), count + 1).round().astype(int)
    return [(first, y[first:last]) for first, last in itertools.pairwise(edges)]


def last_finite(y: Column) -> float | None:
    """The newest value, or None."""
    finite = y[np.isfinite(y)]
    return float(finite[-1]) if len(finite) else None


def first_finite(y: Column) -> float | None:
    """The oldest value, or None."""
    finite = y[np.isfinite(y)]
    return float(finite[0]) if len(finite) else None
