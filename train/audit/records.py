"""What a run with `audit: true` leaves under RUN_DIR/audit: which samples the model was given, as Parquet.

    audit/start-0002-after-00000080/rank-00000-of-00002-steps-00000081-00000160.parquet

A folder for each start of the run, named by the steps that were done when it began; in it each rank's files, one after
the other. A file is whole or not there. A killed run trains the steps after its newest checkpoint again: the records of
both stay, and the reader decides which count.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

FOLDER = "audit"
VERSION = 1
METADATA_KEY = b"brickyard.audit"
START_NAME = re.compile(r"start-(\d{4,})-after-(\d{8,})")
PART_NAME = re.compile(r"rank-(\d{5,})-of-(\d{5,})-steps-(\d{8,})-(\d{8,})\.parquet")

# One sample that one rank was given. `tokens` is `token_hashes` of it; `domain` is a number in the plan's domains.
RECORD = np.dtype(
    [("step", "i8"), ("sample", "i8"), ("domain", "i4"), ("epoch", "i4"), ("row", "i8"), ("tokens", "u8")]
)
SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("sample", pa.int64()),
        ("domain", pa.dictionary(pa.int32(), pa.string())),
        ("epoch", pa.int32()),
        ("row", pa.int64()),
        ("tokens", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class Start:
    """One start of a run: every `brickyard train` that came to training is one."""

    number: int  # 1, 2, ...
    step: int  # optimizer steps done when it began
    sample: int  # samples done when it began
    ranks: int
    batch: int  # samples of one step, over all ranks
    plan: str  # the plan's fingerprint

    @property
    def name(self) -> str:
        return f"start-{self.number:04d}-after-{self.step:08d}"


@dataclass(frozen=True)
class Part:
    """One file: what `rank` was given in steps `first` to `last`."""

    start: Start
    rank: int
    first: int
    last: int

    @property
    def name(self) -> str:
        ranks = f"rank-{self.rank:05d}-of-{self.start.ranks:05d}"
        return f"{ranks}-steps-{self.first:08d}-{self.last:08d}.parquet"


@dataclass(frozen=True)
class PartFile:
    """A file by its name: what `rank` was given in steps `first` to `last`."""

    rank: int
    first: int
    last: int
    path: Path

    @property
    def short_name(self) -> str:
        """Within the run's folder."""
        return f"{FOLDER}/{self.path.parent.name}/{self.path.name}"


class UnreadableError(Exception):
    """A file of records can't be read, or is not what its name says; the message says what it is."""


def token_hashes(tokens_BT: NDArray[np.integer]) -> NDArray[np.uint64]:
    """[B]: 64 bits of XXH3 over each sample's tokens, as little-endian 64-bit integers."""
    rows = np.ascontiguousarray(tokens_BT, dtype="<i8")
    return np.array([xxhash.xxh3_64_intdigest(row) for row in rows], np.uint64)


def write_part(audit: Path, part: Part, records: NDArray[np.void], domains: tuple[str, ...]) -> Path:
    """Write RECORDs as a file that is there whole, and stays there should the machine lose power, or not at all."""
    columns = {name: pa.array(records[name]) for name in RECORD.names or ()}
    columns["domain"] = pa.DictionaryArray.from_arrays(columns["domain"], pa.array(domains))
    metadata = {METADATA_KEY: json.dumps({"version": VERSION, **asdict(part)})}
    path = audit / part.start.name / part.name
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        pq.write_table(pa.table(columns, SCHEMA.with_metadata(metadata)), file, write_page_checksum=True)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def read_part(path: Path) -> Part:
    """What a file says of itself.

    Raises:
        UnreadableError: it is damaged, or says other than its name.
    """
    try:
        content = json.loads((pq.read_schema(path).metadata or {})[METADATA_KEY])
        version = content.pop("version")
        part = Part(**{**content, "start": Start(**content["start"])})
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"one that can't be read ({in_a_line(error)})") from None
    if version != VERSION or (part.start.name, part.name) != (path.parent.name, path.name):
        raise UnreadableError(f"one that says it is {part.start.name}/{part.name}")
    return part


def read_records(path: Path, domains: Mapping[str, int]) -> NDArray[np.void]:
    """The RECORDs of a file; a domain that is none of `domains` has number -1.

    Raises:
        UnreadableError: it is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=list(RECORD.names or ()))
        records = np.empty(len(table), RECORD)
        for name in RECORD.names or ():
            records[name] = domain_numbers(table, domains) if name == "domain" else table[name].to_numpy()
    except (pa.ArrowException, OSError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UnreadableError(f"one that can't be read ({in_a_line(error)})") from None
    return records


def domain_numbers(table: pa.Table, domains: Mapping[str, int]) -> NDArray[np.int32]:
    column = table["domain"].combine_chunks()
    numbers = np.array([domains.get(name, -1) for name in column.dictionary.to_pylist()], np.int32)
    return numbers[column.indices.to_numpy()]


def starts_in(audit: Path) -> list[tuple[int, int, Path]]:
    """(number, steps done when it began, folder) of every start, in the order in which they came."""
    found = [(match, path) for path in audit.iterdir() if (match := START_NAME.fullmatch(path.name))]
    return sorted((int(match[1]), int(match[2]), path) for match, path in found)


def parts_in(folder: Path) -> list[PartFile]:
    """A start's files, rank by rank, in the order of their steps."""
    found = [(match, path) for path in folder.iterdir() if (match := PART_NAME.fullmatch(path.name))]
    parts = [PartFile(int(match[1]), int(match[3]), int(match[4]), path) for match, path in found]
    return sorted(parts, key=lambda part: (part.rank, part.first))


def in_a_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
