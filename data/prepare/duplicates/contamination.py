"""Decontamination: documents that share a run of words with a benchmark are dropped.

GPT-3's method (Brown et al. 2020, appendix C), 13 words in lower case without punctuation; it cut the run out of long
documents, we drop the document.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from data.prepare.duplicates.benchmarks import Contamination
from data.prepare.duplicates.choices import Decontaminate
from data.prepare.duplicates.documents import (
    DOCUMENTS,
    Found,
    Report,
    first_of_each_domain,
    is_new,
    kept,
    read,
    texts_of,
    without,
    write_found,
)
from data.prepare.duplicates.words import ngrams, parts
from data.prepare.session import spark_path

STEP = "contaminated"
HITS = "id long, ngram long, benchmark int, words string"


def write(choice: Decontaminate, benchmarks: Contamination, documents: DataFrame, folder: Path, report: Report) -> None:
    """Drops documents that overlap with a benchmark (DOCUMENTS and FOUND in `folder`); columns as for near.write."""
    for name, examples, short in zip(benchmarks.names, benchmarks.examples, benchmarks.short, strict=True):
        shorter = f", {short:,} of them shorter than {choice.ngram} words and not searched for" if short else ""
        report(f"decontamination: {name}: {examples:,} examples{shorter}")
    report(f"decontamination: looking for {len(benchmarks.hashes):,} runs of {choice.ngram} words")
    scratch = folder / "scratch"
    hits = kept(documents).select("id", "text").mapInArrow(partial(_hits, benchmarks=benchmarks), HITS)
    hits.write.parquet(spark_path(scratch / "hits"))
    hits = read(documents, scratch / "hits")
    if choice.max_documents is not None:
        spread = hits.groupBy("ngram").agg(F.count_distinct("id").alias("documents"))
        hits = hits.join(spread.where(F.col("documents") > choice.max_documents), "ngram", "left_anti")
    overlaps = hits.groupBy("id", "benchmark").agg(F.min("words").alias("words"))
    overlaps.join(documents.where(is_new()).select("id", "domain", "origin"), "id").write.parquet(
        spark_path(scratch / "overlaps")
    )
    overlaps = read(documents, scratch / "overlaps")
    without(documents, overlaps.select("id").distinct(), STEP).write.parquet(spark_path(folder / DOCUMENTS))
    write_found(folder, _found(overlaps, benchmarks.names))
    shutil.rmtree(scratch)


def _found(overlaps: DataFrame, names: list[str]) -> dict[str, Found]:
    documents = overlaps.groupBy("id").agg(
        F.first("domain").alias("domain"),
        F.first("origin").alias("origin"),
        F.min(F.struct("benchmark", "words")).alias("shown"),
    )
    found = {domain: Found(dropped=number) for domain, number in documents.groupBy("domain").count().collect()}
    for domain, benchmark, number in overlaps.groupBy("domain", "benchmark").count().orderBy("benchmark").collect():
        found[domain].counts[names[benchmark]] = number
    for row in first_of_each_domain(documents).collect():
        found[row.domain].examples.append(f"{row.origin} has of {names[row.shown.benchmark]}: {row.shown.words!r}")
    return found


def _hits(batches: Iterator[pa.RecordBatch], benchmarks: Contamination) -> Iterator[pa.RecordBatch]:
    """Every n-gram of every benchmark that a document has, once a part of it."""
    names = ["id", "ngram", "benchmark", "words"]
    for batch in batches:
        for numbers, group in parts(texts_of(batch)):
            grams = ngrams(group, benchmarks.length, short=False)
            places, owners = benchmarks.find(grams.hashes)
            documents = np.repeat(np.asarray(numbers), grams.counts)[places]
            pairs = np.stack([documents.astype(np.uint64), grams.hashes[places]])
            once = np.unique(pairs, axis=1, return_index=True)[1]
            spelt = [grams.spell(place, benchmarks.length) for place in places[once]]
            yield pa.RecordBatch.from_arrays(
                [
                    batch.column("id").take(pa.array(documents[once])),
                    pa.array(grams.hashes[places[once]].view(np.int64)),
                    pa.array(owners[once].astype(np.int32)),
                    pa.array(spelt, pa.string()),
                ],
                names,
            )
