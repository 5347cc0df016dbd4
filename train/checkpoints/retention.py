"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from train.checkpoints.names import remove, steps_of, whole_checkpoints


@dataclass(frozen=True)
class Retention:
    """The newest `keep_last` stay, and for ever those whose steps are a multiple of `keep_every`, if that is set."""

    keep_last: int
    keep_every: int | None = None

    def superseded(self, steps: Iterable[int]) -> list[int]:
        """Those of these steps whose checkpoints go."""
        older = sorted(steps)[: -self.keep_last]
        return [step for step in older if self.keep_every is None or step % self.keep_every]

    def apply(self, folder: Path) -> None:
        """Remove those that go."""
        found = {steps_of(path): path for path in whole_checkpoints(folder)}
        for step in self.superseded(found):
            remove(found[step])
