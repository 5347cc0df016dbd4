"""How long a document may be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from data.prepare.cleaning.verdict import Drop, Problem, outside


@dataclass
class Characters:
    """Drops what is shorter or longer, in characters (Unicode code points)."""

    min: int = 1
    max: int | None = None  # null: as long as it likes

    source: ClassVar[str] = "—"

    def problems(self) -> Iterator[Problem]:
        if self.min < 1:
            yield "min", "expected at least 1"
        if self.max is not None and self.max < self.min:
            yield "max", f"expected at least min ({self.min:,}), or null"

    def apply(self, text: str) -> str | Drop:
        return outside("characters", len(text), self.min, self.max) or text
