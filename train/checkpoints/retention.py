"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from train.checkpoints.names import remove, steps_of, whole_checkpoints

# A file in those that stay for ever. It holds nothing: which steps `keep_every` means may be another matter later, when
# the global batch or the run's length has changed.
MARK = "for_ever"


@dataclass(frozen=True)
class Retention:
    """The newest `keep_last` stay, and for ever those whose steps are a multiple of `keep_every`, if that is set, or
    were one when they were written."""

    keep_last: int
    keep_every: int | None = None

    def for_ever(self, step: int) -> bool:
        """Whether the checkpoint of this step stays for ever."""
        return self.keep_every is not None and step % self.keep_every == 0

    def mark(self, checkpoint: Path, step: int) -> None:
        """Mark a checkpoint that is being written, if it stays for ever."""
        if self.for_ever(step):
            (checkpoint / MARK).touch()

    def superseded(self, steps: Iterable[int], marked: Collection[int] = ()) -> list[int]:
        """Those of these steps whose checkpoints go."""
        older = sorted(steps)[: -self.keep_last]
        return [step for step in older if step not in marked and not self.for_ever(step)]

    def apply(self, folder: Path) -> None:
        """Remove those that go."""
        found = {steps_of(path): path for path in whole_checkpoints(folder)}
        for step in self.superseded(found, [step for step, path in found.items() if (path / MARK).exists()]):
            remove(found[step])
