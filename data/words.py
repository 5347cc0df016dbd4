"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def short(number: float) -> str:
    """1234567 as 1.23M."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= scale * 0.9995:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.0f}"


def byte_count(number: int) -> str:
    """1234567 as 1.23 MB."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= scale * 0.9995:
            return f"{number / scale:.3g} {unit}"
    return f"{number} B"


def nats(loss: float | None) -> str:
    return "–" if loss is None or not math.isfinite(loss) else f"{loss:.3f}"


def signed(difference: float | None) -> str:
    """With its sign, and the minus that is as wide as a plus."""
    return "–" if difference is None else f"{difference:+.3f}".replace("-", "−")


def percent(share: float | None) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{share:.1%}"


def duration(seconds: float) -> str:
    """The two largest parts: 3700 as 1 h 2 min."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def change(first: float, last: float, form: str, arrow: str = "→") -> str:
    """`0.60 → 0.20`, or `0.20` where nothing changes."""
    before, after = format(first, form), format(last, form)
    return before if before == after else f"{before} {arrow} {after}"


def join_words(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
