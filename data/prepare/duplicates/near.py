"""Near duplicates: MinHash signatures, bands that agree make pairs, pairs are verified, components keep one document.

Nothing here is quadratic. A band that many documents share (boilerplate) gives each of them two pairs, with the band's
first document and with the one before it, not one with every other; the order within a band is that of the next band,
so that the most alike stand beside each other. Two documents that are alike meet in many bands.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Observation, Window
from pyspark.sql import functions as F

from data.prepare.beside import beside
from data.prepare.duplicates import minhash
from data.prepare.duplicates.choices import NearDuplicates
from data.prepare.duplicates.components import connected_components
from data.prepare.duplicates.documents import (
    DOCUMENTS,
    Found,
    Report,
    first_of_each_domain,
    kept,
    priority,
    read,
    texts_of,
    without,
    write_found,
)
from data.prepare.session import spark_path

STEP = "near_duplicate"
SIGNATURES = "id long, signature binary, bands array<long>"
PAIRS = "a long, b long, similarity double"


def write(choice: NearDuplicates, documents: DataFrame, folder: Path, report: Report) -> None:
    """Drops all but one document of each component, the one of the highest priority (DOCUMENTS and FOUND in `folder`).

    `documents` has the columns domain, priority, source, origin, id (a hash of the text), text and dropped, and any
    others.
    """
    scratch = folder / "scratch"
    report("near duplicates: hashing the documents' words")
    number = write_signatures(kept(documents), choice, scratch / "signatures")
    signatures = read(documents, scratch / "signatures")
    report(f"near duplicates: looking for pairs among {number:,} documents")
    write_pairs(signatures, choice, scratch / "pairs")
    pairs = read(documents, scratch / "pairs")
    members = connected_components(
        pairs.select("a", "b"), scratch, lambda line: report(f"near duplicates: joining pairs, {line}")
    )
    write_repeats(kept(documents), members, scratch / "repeats")
    repeats = read(documents, scratch / "repeats")
    dropped = dict[str, int](row[:] for row in repeats.groupBy("domain").count().collect())
    report(f"near duplicates: dropping {sum(dropped.values()):,} documents")
    with beside(lambda: _found(dropped, repeats, signatures)) as found:
        without(documents, repeats, STEP).write.parquet(spark_path(folder / DOCUMENTS))
    write_found(folder, found.result())
    shutil.rmtree(scratch)


def write_signatures(documents: DataFrame, choice: NearDuplicates, folder: Path) -> int:
    """One row a document that has words (columns: SIGNATURES); returns how many these are."""
    signed = documents.select("id", "text").mapInArrow(partial(_sign, choice=choice), SIGNATURES)
    observed = Observation()
    signed.observe(observed, F.count(F.lit(1)).alias("rows")).write.parquet(spark_path(folder))
    return observed.get["rows"]


def write_pairs(signatures: DataFrame, choice: NearDuplicates, folder: Path) -> None:
    """The pairs whose estimated similarity reaches the threshold (columns: PAIRS)."""
    compared = _compared(candidates(signatures, choice.bands), signatures)
    compared.where(F.col("similarity") >= choice.threshold).write.parquet(spark_path(folder))


def candidates(signatures: DataFrame, bands: int) -> DataFrame:
    """Pairs a > b of documents that agree in a band, each once; at most two for each document and band."""
    following = F.concat(F.slice("bands", 2, bands), F.slice("bands", 1, 1))
    both = F.explode(F.arrays_zip(F.col("bands").alias("band"), following.alias("next"))).alias("of")
    rows = signatures.select("id", both).select("id", "of.band", "of.next")
    order = Window.partitionBy("band").orderBy("next", "id")
    others = rows.select("id", F.array(F.first("id").over(order), F.lag("id").over(order)).alias("others"))
    pairs = others.select("id", F.explode("others").alias("other")).where("id != other")  # a band's first: itself, null
    return pairs.select(F.greatest("id", "other").alias("a"), F.least("id", "other").alias("b")).distinct()


def write_repeats(documents: DataFrame, members: DataFrame, folder: Path) -> None:
    """The documents to drop, each with the one of its component that stays: columns id, domain, origin, stays."""
    placed = members.join(documents.select(F.col("id").alias("node"), priority().alias("document")), "node")
    stays = placed.groupBy("root").agg(F.min("document").alias("stays"))
    repeats = placed.join(stays, "root").where("document != stays and document.priority >= 0")
    repeats.select("document.id", "document.domain", "document.origin", "stays").write.parquet(spark_path(folder))


def _found(dropped: dict[str, int], repeats: DataFrame, signatures: DataFrame) -> dict[str, Found]:
    found = {domain: Found(dropped=number) for domain, number in dropped.items()}
    shown = first_of_each_domain(repeats).collect()
    theirs = signatures.where(F.col("id").isin([id for row in shown for id in (row.id, row.stays.id)]))
    signature = {row.id: np.frombuffer(row.signature, np.uint32) for row in theirs.select("id", "signature").collect()}
    for row in shown:
        similar = minhash.similarity(signature[row.id][None], signature[row.stays.id][None])[0]
        stays = f"{row.stays.domain}/{row.stays.origin}"
        found[row.domain].examples.append(f"{row.origin} is {similar:.2f} like {stays}, which stays")
    return found


def _compared(pairs: DataFrame, signatures: DataFrame) -> DataFrame:
    """Columns PAIRS of pairs with the columns a and b."""
    of_a = signatures.select(F.col("id").alias("a"), F.col("signature").alias("of_a"))
    of_b = signatures.select(F.col("id").alias("b"), F.col("signature").alias("of_b"))
    return pairs.select("a", "b").join(of_a, "a").join(of_b, "b").mapInArrow(_compare, PAIRS)


def _sign(batches: Iterator[pa.RecordBatch], choice: NearDuplicates) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        minima = minhash.signatures(texts_of(batch), choice.ngram, choice.num_hashes)
        worded = np.flatnonzero((minima != minhash.NONE).any(axis=1))
        minima = minima[worded]
        columns = [
            batch.column("id").take(pa.array(worded)),
            pa.array([row.tobytes() for row in minima], pa.binary()),
            pa.array(list(minhash.band_keys(minima, choice.bands)), pa.list_(pa.int64())),
        ]
        yield pa.RecordBatch.from_arrays(columns, ["id", "signature", "bands"])


def _compare(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in filter(len, batches):
        a, b = (_unpacked(batch.column(name)) for name in ("of_a", "of_b"))
        columns = [batch.column("a"), batch.column("b"), pa.array(minhash.similarity(a, b), pa.float64())]
        yield pa.RecordBatch.from_arrays(columns, ["a", "b", "similarity"])


def _unpacked(signatures: pa.BinaryArray) -> np.ndarray:
    """Signatures that travelled as bytes: [rows, hashes]."""
    return np.frombuffer(b"".join(signatures.to_pylist()), dtype=np.uint32).reshape(len(signatures), -1)
