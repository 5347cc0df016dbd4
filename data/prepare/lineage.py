"""Writes data/lineage.py's dataset: from where each kept document is, and where its tokens are now."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from data.lineage import SCHEMA
from data.manifest import folder_of
from data.prepare.attempts import attempt
from data.prepare.places import Places, of_place
from data.prepare.runs import runs
from data.prepare.session import cores
from data.prepare.shards import Layout

PART_DOCUMENTS = 1_000_000  # of one file, about
GROUP_DOCUMENTS = 10_000  # of one row group: what is read for a sample, at least


@dataclass(frozen=True)
class Parts:
    """Which documents go into which file; files are numbered through all splits."""

    first: Places  # (domain, split) -> its first file's number
    shards: Places  # how many shards' documents each of its files has
    number: int


def divide(layout: Layout, documents: Places) -> Parts:
    """Files of about PART_DOCUMENTS; `documents`: of each split."""
    last = [*layout.first_shard.values(), layout.shards][1:]
    first, shards, number = {}, {}, 0
    for (place, first_shard), end in zip(layout.first_shard.items(), last, strict=True):
        first[place] = number
        shards[place] = max(1, PART_DOCUMENTS * (end - first_shard) // documents[place])
        number += -(-(end - first_shard) // shards[place])
    return Parts(first, shards, number)


def write(placed: DataFrame, layout: Layout, documents: Places, folder: Path) -> None:
    """Writes into `folder` a row for each document, in the same files and bytes on any number of cores.

    `placed`: tokenized documents with the places of their pieces, from placing.py; `documents`: how many, by split.
    """
    parts = divide(layout, documents)
    rows = _rows(placed, layout).withColumn("part", of_place(parts.first) + _div("run", of_place(parts.shards)))
    tasks = min(parts.number, 2 * cores(placed.sparkSession))
    in_order = rows.repartitionById(tasks, (F.col("part") % tasks).cast("int")).sortWithinPartitions(
        "part", "first_sample", "sample", "position"
    )
    written = in_order.mapInArrow(partial(_write_parts, folder=folder), "documents long").agg(F.sum("documents"))
    number = written.collect()[0][0]
    assert number == sum(documents.values()), f"{number} documents in the lineage, {sum(documents.values())} were kept"


def _rows(placed: DataFrame, layout: Layout) -> DataFrame:
    """SCHEMA's columns, and `first_shard`, that of `first_sample`, and `run`, its number among those of `placed`."""
    length = layout.max_seq_len

    shards_before, samples_before = (
        of_place({place: before.get(place, 0) for place in layout.first_shard})
        for before in (layout.shards_before, layout.samples_before)
    )

    def place(offset: Column) -> dict[str, Column]:
        return {
            "shard": shards_before + _div(offset, length * layout.samples_per_shard),
            "sample": samples_before + _div(offset, length),
            "position": offset % length,
        }

    def piece(of: Column) -> Column:
        columns = {"start": of["start"], "tokens": of["count"], **place(of["offset"])}
        return F.struct(*(column.alias(name) for name, column in columns.items()))

    lowest = F.array_min(F.transform("pieces", lambda of: of["offset"]))
    highest = F.array_max(F.transform("pieces", lambda of: of["offset"] + of["count"] - 1))
    columns = {
        **{name: F.col(name) for name in SCHEMA.names if name in placed.columns},
        "tokens": F.col("count"),
        **place(F.col("pieces")[0]["offset"]),
        "first_sample": samples_before + _div(lowest, length),
        "last_sample": samples_before + _div(highest, length),
        "pieces": F.when(F.size("pieces") > 1, F.transform("pieces", piece)),
        "first_shard": shards_before + _div(lowest, length * layout.samples_per_shard),
        "run": _div(lowest, length * layout.samples_per_shard),
    }
    return placed.select(*(column.alias(name) for name, column in columns.items()))


def _write_parts(batches: Iterator[pa.RecordBatch], folder: Path) -> Iterator[pa.RecordBatch]:
    for _, of_part in runs(batches, "part"):
        yield pa.RecordBatch.from_pydict({"documents": [_write_part(of_part, folder)]})


def _write_part(slices: Iterator[pa.Table], folder: Path) -> int:
    """Writes one file, in whole row groups however the rows come; returns how many rows."""
    rows = next(slices)
    domain, split, shard = (rows.column(name)[0].as_py() for name in ("domain", "split", "first_shard"))
    of_split = folder / folder_of(domain, split)
    name, number = f"part-{shard:05}.parquet", 0
    with attempt(of_split) as own:
        with pq.ParquetWriter(own / name, SCHEMA, compression="zstd") as writer:
            for group in _groups(rows, slices):
                writer.write_table(group.select(SCHEMA.names).cast(SCHEMA))
                number += len(group)
        (own / name).replace(of_split / name)
    return number


def _groups(rows: pa.Table, more: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows in tables of GROUP_DOCUMENTS, in one piece each; the last may be shorter."""
    for following in more:
        while len(rows) >= GROUP_DOCUMENTS:
            yield rows.slice(0, GROUP_DOCUMENTS).combine_chunks()
            rows = rows.slice(GROUP_DOCUMENTS)
        rows = pa.concat_tables([rows, following])
    for start in range(0, len(rows), GROUP_DOCUMENTS):
        yield rows.slice(start, GROUP_DOCUMENTS).combine_chunks()


def _div(number: Column | str, by: Column | int) -> Column:
    return F.call_function("div", number, by if isinstance(by, Column) else F.lit(by))
