"""What W&B's own files hold already.

W&B's process writes a run's rows into a log of its own, some seconds late; what it has not written when it is killed is
lost. After seven bytes a file is LevelDB's log (https://github.com/google/leveldb/blob/main/doc/log_format.md) of
protobuf records.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import HistoryRecord, Record  # type: ignore[attr-defined]

BLOCK = 32 * 1024  # bytes; a piece of a record lies in one
FILE_HEADER = PIECE_HEADER = 7
FULL, FIRST, _, LAST = range(1, 5)  # kinds of pieces; between them MIDDLE
TAIL = 32 * BLOCK  # of a file that is looked at first
QUIET = 5.0  # seconds after its last write, in which W&B's process writes every two, a file is nobody's any more


def logs_of(folder: Path, identity: str) -> list[Path]:
    """The run's files in W&B's folder, one of each start."""
    return list(folder.glob(f"*run-*-{identity}/run-{identity}.wandb"))


def newest_row(files: Sequence[Path]) -> dict[str, int]:
    """By metric, the newest step that the files hold a row of: of that row's metrics only, for whatever came before is
    there as well."""
    rows = [row for file in files if (row := newest_row_of(file))]
    newest = max((step for step, _ in rows), default=0)
    return {name: step for step, names in rows if step == newest for name in names}


def newest_row_of(file: Path) -> tuple[int, set[str]] | None:
    """The newest step, and the names of its metrics."""
    for _, content, place in tails(file):
        if rows := list(history(content, place)):
            newest = max(row.step.num for row in rows)
            return newest, {"/".join(item.nested_key) for row in rows if row.step.num == newest for item in row.item}
    return None


def mend(file: Path) -> None:
    """Cut off the record that a process which was killed has half written: `wandb sync` would go no further."""
    if time.time() - file.stat().st_mtime < QUIET:
        return
    for begin, content, place in tails(file):
        if ends := [end for _, end in records(content, place)]:
            if any(content[ends[-1] :]):
                os.truncate(file, begin + ends[-1])
            return


def tails(file: Path) -> Iterator[tuple[int, bytes, int]]:
    """(place in the file, content from there to its end, place of the first record in that), longer and longer ones."""
    size, reach = file.stat().st_size, TAIL
    while True:
        begin = max(0, size - reach) // BLOCK * BLOCK
        with file.open("rb") as log:
            log.seek(begin)
            yield begin, log.read(), 0 if begin else FILE_HEADER
        if not begin:
            return
        reach *= 8


def history(content: bytes, place: int) -> Iterator[HistoryRecord]:
    for data, _ in records(content, place):
        try:
            record = Record.FromString(data)
        except DecodeError:
            return  # torn
        if record.HasField("history"):
            yield record.history


def records(content: bytes, place: int) -> Iterator[tuple[bytes, int]]:
    """Whole records, and where each ends, from `place` on; `content` begins with a block. One that began earlier is
    passed over, and so is one that was cut short."""
    parts: list[bytes] | None = None
    while place + PIECE_HEADER <= len(content):
        rest = BLOCK - place % BLOCK
        if rest < PIECE_HEADER:  # too little for a piece: zeros
            place += rest
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)  # after a checksum
        place += PIECE_HEADER
        piece, place = content[place : place + length], place + length
        if kind in (FULL, FIRST):
            parts = []
        if parts is None or len(piece) < length:
            continue
        parts.append(piece)
        if kind in (FULL, LAST):
            yield b"".join(parts), place
            parts = None
