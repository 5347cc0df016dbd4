"""The starts of a run, and which of their records count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from train.audit.records import PartFile, Start, UnreadableError, parts_in, read_part, starts_in


@dataclass(frozen=True)
class RecordedStart:
    """What a start has left.

    Attributes:
        number, step: as in Start.
        last: the last of its steps that counts; the steps after it were trained again by a later start.
        parts: its files, rank by rank, in the order of their steps.
        start: what its files say of it; None if none can be read.
    """

    number: int
    step: int
    last: int
    parts: list[PartFile]
    start: Start | None

    def gaps(self) -> Iterator[tuple[int, int, int]]:
        """(rank, first step, last step) of the counted steps of which a rank has no file."""
        for rank in range(self.start.ranks if self.start else 0):
            done = self.step
            for part in [part for part in self.parts if part.rank == rank and part.first <= self.last]:
                if part.first > done + 1:
                    yield rank, done + 1, part.first - 1
                done = max(done, part.last)
            if done < self.last:
                yield rank, done + 1, self.last

    def records_beyond(self) -> int:
        """Records of steps that do not count."""
        steps = sum(max(0, part.last - max(self.last, part.first - 1)) for part in self.parts)
        return steps * self.start.batch // self.start.ranks if self.start else 0


def read_starts(audit: Path, steps_done: int) -> list[RecordedStart]:
    """The starts of a run, whose newest checkpoint has `steps_done` steps.

    What a start did counts up to the earliest point from which a later one went on, and no further than the checkpoint:
    the steps after that were trained again, or will be, or are not saved yet.
    """
    found = [(number, step, parts_in(folder)) for number, step, folder in starts_in(audit)]
    starts = []
    for index, (number, step, parts) in enumerate(found):
        last = min([steps_done, *(begin for _, begin, _ in found[index + 1 :])])
        starts.append(RecordedStart(number, step, max(step, last), parts, describe(parts)))
    return starts


def describe(parts: list[PartFile]) -> Start | None:
    """What the first file that can be read says of the start."""
    for part in parts:
        try:
            return read_part(part.path).start
        except UnreadableError:
            continue
    return None
