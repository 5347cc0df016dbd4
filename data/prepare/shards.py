"""Placed tokens to MDS shards: bring together what each shard is made of, read it, write it."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from data.manifest import folder_of
from data.prepare import packing
from data.prepare.attempts import attempt
from data.prepare.places import Places
from data.prepare.session import cores, spark_path
from data.prepare.tokens import bucket_file

MDS_OFFSET_BYTES = 4  # per sample, in a shard's header
NAME_DIGITS = 12  # of the hash in a shard's name
# What a shard is made of. begins: a document, or a piece that was cut; its tokens are `count` from `at` on in a bucket.
PIECES = pa.schema(
    {"shard": pa.int64(), "offset": pa.int64(), "begins": pa.bool_()}
    | dict.fromkeys(("bucket", "at", "count"), pa.int64())
)
WRITTEN = "shard long, samples long, tokens long, padding long, entry string, ids array<int>, counts array<long>"


@dataclass(frozen=True)
class Layout:
    """Where every shard of the dataset lies; shards are numbered through all splits."""

    max_seq_len: int
    samples_per_shard: int
    dtype: str
    end_of_text: int
    first_shard: dict[tuple[str, str], int]  # (domain, split) -> its first shard's number
    shards: int
    # What lies in the dataset already, before these: shards and samples of each split.
    shards_before: Places = field(default_factory=dict)
    samples_before: Places = field(default_factory=dict)

    @property
    def shard_tokens(self) -> int:
        return self.max_seq_len * self.samples_per_shard

    def split_of(self, shard: int) -> tuple[str, str, int]:
        """(domain, split, number among the split's that are written now) of a shard."""
        (domain, split), first = max(
            ((place, first) for place, first in self.first_shard.items() if first <= shard), key=lambda item: item[1]
        )
        return domain, split, shard - first


@dataclass(frozen=True)
class Writer:
    """How shards are written; the part of the recipe that goes to the tasks."""

    output: Path
    compression: str | None
    hashes: list[str]


def plan(samples: Places, max_seq_len: int, dtype: str, end_of_text: int, shard_mb: float) -> Layout:
    """Divides the splits' samples into shards of at most `shard_mb` of tokens, of one sample at least.

    What a shard says of its documents comes on top: some bytes a sample, and two or four for each document.
    """
    sample_bytes = max_seq_len * np.dtype(dtype).itemsize + MDS_OFFSET_BYTES
    samples_per_shard = max(1, int(shard_mb * 2**20) // sample_bytes)
    first_shard, number = {}, 0
    for place, count in samples.items():
        first_shard[place] = number
        number += -(-count // samples_per_shard)
    return Layout(max_seq_len, samples_per_shard, dtype, end_of_text, first_shard, number)


def write(placed: DataFrame, tokens: Path, layout: Layout, writer: Writer, folder: Path) -> None:
    """Writes every shard, and into `folder` a row for each (columns: WRITTEN).

    `placed`: documents with the places of their pieces, from placing.py; `tokens`: the folder of their tokens.
    """
    pieces = placed.select("domain", "split", "bucket", "within", "pieces").mapInArrow(
        partial(_cut_batches, layout=layout), from_arrow_schema(PIECES)
    )
    # A task writes its shards one by one.
    tasks = min(layout.shards, 2 * cores(placed.sparkSession))
    by_shard = pieces.repartitionById(tasks, (F.col("shard") % tasks).cast("int")).sortWithinPartitions(
        "shard", "offset"
    )
    written = by_shard.mapInArrow(partial(_write_batches, tokens=tokens, layout=layout, writer=writer), WRITTEN)
    written.write.parquet(spark_path(folder))


def write_index(folder: Path, entries: Iterable[dict[str, Any]]) -> None:
    """Streaming's index.json of one split."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": list(entries)}, sort_keys=True) + "\n")


def _cut_batches(batches: Iterator[pa.RecordBatch], layout: Layout) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = []
        for row in batch.to_pylist():
            first = layout.first_shard[row["domain"], row["split"]]
            for piece in row["pieces"]:
                for shard, start, stop in packing.cut(piece["offset"], piece["count"], layout.shard_tokens):
                    at = row["within"] + piece["start"] + start
                    rows.append((first + shard, piece["offset"] + start, start == 0, row["bucket"], at, stop - start))
        yield _batch(rows, PIECES)


def _write_batches(
    batches: Iterator[pa.RecordBatch], tokens: Path, layout: Layout, writer: Writer
) -> Iterator[pa.RecordBatch]:
    rows = (row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    schema = pa.schema(
        [
            *((name, pa.int64()) for name in ("shard", "samples", "tokens", "padding")),
            ("entry", pa.string()),
            ("ids", pa.list_(pa.int32())),
            ("counts", pa.list_(pa.int64())),
        ]
    )
    for shard, pieces in groupby(rows, key=itemgetter(0)):
        domain, split, number = layout.split_of(shard)
        samples, real, starts = packing.assemble(
            _read(pieces, tokens, layout.dtype), number * layout.shard_tokens, layout.max_seq_len, layout.end_of_text
        )
        ids, counts = packing.occurrences(samples, real)
        size, padding = len(samples), int(real.size - real.sum())
        contents = _contents(samples, real, starts)
        del samples, real, starts  # they end with it: the writer makes two further copies of them
        name = number + layout.shards_before.get((domain, split), 0)
        entry = _write_shard(contents, layout, name, writer, writer.output / folder_of(domain, split))
        count = size * layout.max_seq_len - padding
        yield _batch([(shard, size, count, padding, json.dumps(entry), ids.tolist(), counts.tolist())], schema)


def _contents(samples: np.ndarray, real: np.ndarray, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens and the document_offsets of each sample."""
    for sample, of_sample, starts_of_sample in zip(samples, real, starts, strict=True):
        yield sample, packing.document_offsets(of_sample, starts_of_sample)


def _read(pieces: Iterable[tuple], folder: Path, dtype: str) -> Iterator[tuple[int, bool, np.ndarray]]:
    """(offset, begins, tokens) of each; those of a bucket follow one another."""
    for bucket, of_bucket in groupby(pieces, key=itemgetter(3)):
        tokens = np.memmap(bucket_file(folder, bucket), dtype=dtype, mode="r")
        for _, offset, begins, _, at, count in of_bucket:
            yield offset, begins, tokens[at : at + count]


def _write_shard(
    samples: Iterable[tuple[np.ndarray, np.ndarray]], layout: Layout, number: int, writer: Writer, folder: Path
) -> dict[str, Any]:
    """Writes samples, each its tokens and its document_offsets, as shard `number` of `folder`; returns its entry for
    index.json.
    """
    # Imports torch, which takes seconds: only in the tasks that write.
    from streaming.base.format.mds.writer import MDSWriter

    columns = {
        "document_offsets": f"ndarray:{packing.offset_dtype(layout.max_seq_len)}",
        "tokens": f"ndarray:{layout.dtype}:{layout.max_seq_len}",
    }
    with attempt(folder) as own:
        with MDSWriter(
            columns=columns,
            out=str(own / "shard"),
            compression=writer.compression,
            hashes=sorted(writer.hashes),
            size_limit=None,
        ) as mds:
            for tokens, of_documents in samples:
                mds.write({"document_offsets": of_documents, "tokens": tokens})
            del tokens, of_documents
        (entry,) = json.loads((own / "shard" / "index.json").read_text())["shards"]
        (written,) = (own / "shard").glob("shard.*")
        name = shard_name(number, written)
        for data in filter(None, (entry["raw_data"], entry["zip_data"])):
            old = data["basename"]
            data["basename"] = old.replace("shard.00000", name)
            if (own / "shard" / old).exists():
                (own / "shard" / old).replace(folder / data["basename"])
    return entry


def shard_name(number: int, file: Path) -> str:
    """A shard's name without suffixes. It has a hash of the file's content: where shards are replaced under the eyes of
    those who read them, none takes another's place."""
    with file.open("rb") as content:
        return f"shard.{number:05}.{hashlib.file_digest(content, 'sha256').hexdigest()[:NAME_DIGITS]}"


def _batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns: list[Any] = list(zip(*rows, strict=True)) or [[] for _ in schema]
    return pa.RecordBatch.from_arrays(
        [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema
    )
