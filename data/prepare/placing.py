"""Where each document's tokens stand in their split's stream, whose every `max_seq_len` tokens are a sample."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from data.prepare import best_fit
from data.prepare.session import spark_path

BUCKET = ["domain", "split", "bucket"]
# A piece of a document: its tokens from `start` on are at `position` in a sample of the bucket's.
PLACES = "domain string, split string, bucket long, key string, start long, count long, sample long, position long"


def concatenated(documents: DataFrame) -> DataFrame:
    """Documents one after the other, in the order of keys.

    `documents`: what tokens.py says of them. Columns out: the same, and pieces (of the document: from which token, how
    many, offset in the stream).
    """
    starts = _starts(documents.groupBy(*BUCKET).agg(F.sum("count").alias("size")))
    offset = (F.col("first") + F.col("within")).alias("offset")
    whole = F.struct(F.lit(0).cast("long").alias("start"), "count", offset)
    return documents.join(F.broadcast(starts), BUCKET).withColumn("pieces", F.array(whole)).drop("first")


def write_places(documents: DataFrame, max_seq_len: int, folder: Path) -> None:
    """Packs documents best-fit, bucket by bucket, by their lengths alone (columns: PLACES)."""

    def pack(bucket: pa.Table) -> pa.Table:
        return _pack(bucket, max_seq_len)

    lengths = documents.select(*BUCKET, "key", "count")
    lengths.groupBy(*BUCKET).applyInArrow(pack, PLACES).write.parquet(spark_path(folder))


def best_fitting(documents: DataFrame, places: DataFrame, max_seq_len: int) -> DataFrame:
    """Documents where `write_places` has placed their pieces; columns as of `concatenated`."""
    starts = _starts(_samples(places))
    offset = (F.col("first") + F.col("sample")) * max_seq_len + F.col("position")
    piece = F.struct("start", "count", offset.alias("offset"))
    document = [*BUCKET, "key"]
    pieces = F.sort_array(F.collect_list(piece)).alias("pieces")
    return documents.join(places.join(F.broadcast(starts), BUCKET).groupBy(*document).agg(pieces), document)


def samples_of_splits(places: DataFrame) -> dict[tuple[str, str], int]:
    """How many samples each split has."""
    sums = _samples(places).groupBy("domain", "split").agg(F.sum("size")).collect()
    return {(domain, split): number for domain, split, number in sums}


def _samples(places: DataFrame) -> DataFrame:
    return places.groupBy(*BUCKET).agg((F.max("sample") + 1).alias("size"))


def _starts(sizes: DataFrame) -> DataFrame:
    """Of each bucket, `first`: the sizes of those before it in its split, summed."""
    before = Window.partitionBy("domain", "split").orderBy("bucket").rowsBetween(Window.unboundedPreceding, -1)
    return sizes.select(*BUCKET, F.coalesce(F.sum("size").over(before), F.lit(0)).alias("first"))


def _pack(bucket: pa.Table, max_seq_len: int) -> pa.Table:
    """One bucket's documents (key, count) in samples. These stand in the order of the smallest keys in them, which
    tells nothing of lengths."""
    bucket = bucket.sort_by("key")
    cuts = [best_fit.cut(count, max_seq_len) for count in bucket.column("count").to_pylist()]
    document = np.repeat(np.arange(len(cuts)), [len(pieces) for pieces in cuts])
    lengths = np.array([length for pieces in cuts for length in pieces], np.int64)
    starts = np.array([start for pieces in cuts for start in np.cumsum([0, *pieces[:-1]])], np.int64)
    samples, positions = best_fit.pack(lengths, max_seq_len)
    opened_by = np.unique(samples, return_index=True)[1]  # the place of each sample's first piece, by key
    rank = np.empty(len(opened_by), np.int64)
    rank[np.argsort(opened_by)] = np.arange(len(opened_by))
    columns = {name: bucket.column(name).take(pa.array(document)) for name in (*BUCKET, "key")}
    numbers = {"start": starts, "count": lengths, "sample": rank[samples], "position": positions}
    return pa.table({**columns, **{name: pa.array(of) for name, of in numbers.items()}})
