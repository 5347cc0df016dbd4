"""Repeated lines: a long line that several documents have stays in the first of them alone.

The lines are those of CCNet's paragraphs (Wenzek et al. 2020, 3.1), compared exactly but for white space at their ends;
what repeats within one document is left to it. Only hashes of lines are shuffled.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from data.prepare.duplicates.choices import RepeatedLines
from data.prepare.duplicates.documents import (
    DOCUMENTS,
    Found,
    Report,
    excerpt,
    first_of_each_domain,
    kept,
    priority,
    read,
    texts_of,
    write_found,
)
from data.prepare.session import spark_path

STEP = "repeated_lines"  # drops a document that is left without text
LINES = "id long, line long"


def write(choice: RepeatedLines, documents: DataFrame, folder: Path, report: Report) -> None:
    """Removes repeated lines (DOCUMENTS and FOUND in `folder`); columns as for near.write."""
    scratch = folder / "scratch"
    report("repeated lines: hashing lines")
    long_lines = kept(documents).select("id", "text").mapInArrow(partial(_hash, choice=choice), LINES)
    long_lines.write.parquet(spark_path(scratch / "lines"))
    write_repeats(kept(documents), read(documents, scratch / "lines"), choice, scratch / "repeats")
    repeats = read(documents, scratch / "repeats")
    report("repeated lines: removing them")
    marked = documents.join(repeats.select("id", "lines"), "id", "left")
    marked = marked.withColumn("text", _edit(choice.min_characters)("text", "lines"))
    emptied = F.when(F.col("text") == "", STEP)
    changed = {
        "text": F.when(emptied.isNull(), F.col("text")).alias("text"),
        "dropped": F.coalesce("dropped", emptied).alias("dropped"),
    }
    marked = marked.select(*(changed.get(column, F.col(column)) for column in documents.columns))
    marked.write.parquet(spark_path(folder / DOCUMENTS))
    write_found(folder, _found(repeats, read(documents, folder / DOCUMENTS), documents, choice))
    shutil.rmtree(scratch)


def write_repeats(documents: DataFrame, lines: DataFrame, choice: RepeatedLines, folder: Path) -> None:
    """What each document loses: columns id, domain, origin, lines (their hashes).

    Counting comes first, so that the documents' places travel with repeated lines only.
    """
    scope = ["line"] if choice.across_domains else ["line", "domain"]
    owners = documents.select("id", "domain", priority().alias("document"))
    placed = lines if choice.across_domains else lines.join(owners.select("id", "domain"), "id")
    frequent = placed.groupBy(scope).count().where(F.col("count") > choice.max_documents).drop("count")
    repeated = placed.join(frequent, scope).join(owners.drop(*scope[1:]), "id")
    first = repeated.groupBy(scope).agg(F.min("document").alias("first"))
    lost = repeated.join(first, scope).where("document != first and document.priority >= 0")
    lost.groupBy("id").agg(
        F.first("document.domain").alias("domain"),
        F.first("document.origin").alias("origin"),
        F.collect_list("line").alias("lines"),
    ).write.parquet(spark_path(folder))


def _found(repeats: DataFrame, after: DataFrame, before: DataFrame, choice: RepeatedLines) -> dict[str, Found]:
    found: dict[str, Found] = {}
    emptied = after.where(F.col("dropped") == STEP).groupBy("domain").count().collect()
    dropped: dict[str, int] = dict(emptied)
    sums = repeats.groupBy("domain").agg(F.count("*"), F.sum(F.size("lines")))
    for domain, documents, lines in sums.collect():
        gone = dropped.get(domain, 0)
        found[domain] = Found(dropped=gone, edited=documents - gone, counts={"lines": lines})
    shown = first_of_each_domain(repeats).join(before.select("id", "text"), "id")
    for row in shown.orderBy("domain", "id").collect():
        line = next(line for key, line in _long_lines(row.text, choice.min_characters) if key in row.lines)
        found[row.domain].examples.append(f"{row.origin} loses {excerpt(line)!r}")
    return found


def _hash(batches: Iterator[pa.RecordBatch], choice: RepeatedLines) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        found = [{key for key, _ in _long_lines(text, choice.min_characters)} for text in texts_of(batch)]
        owners = np.repeat(np.arange(len(found)), [len(keys) for keys in found])
        keys = pa.array([key for keys in found for key in sorted(keys)], pa.int64())
        yield pa.RecordBatch.from_arrays([batch.column("id").take(pa.array(owners)), keys], ["id", "line"])


def _edit(min_characters: int) -> Callable[..., Column]:
    """A function of a text and the lines that it loses; ends are trimmed as cleaning does."""

    def edit(texts: pa.Array, lost: pa.Array) -> pa.Array:
        rows = zip(texts.to_pylist(), lost.to_pylist(), strict=True)
        left = [text if keys is None else _remove(text, set(keys), min_characters) for text, keys in rows]
        return pa.array(left, pa.string())

    return F.arrow_udf(edit, "string")  # type: ignore[call-overload]


def _remove(text: str, keys: set[int], min_characters: int) -> str:
    left = _pattern(min_characters).sub(lambda match: "" if _key(match[0].strip()) in keys else match[0], text)
    return left.rstrip().lstrip("\n")


def _long_lines(text: str, min_characters: int) -> Iterator[tuple[int, str]]:
    """Each line of so many characters, with its hash."""
    for match in _pattern(min_characters).finditer(text):
        line = match[0].strip()
        if len(line) >= min_characters:
            yield _key(line), line


def _pattern(min_characters: int) -> re.Pattern[str]:
    """Whole lines: what is greedy begins where the line does."""
    return re.compile(f"[^\n]{{{min_characters},}}\n?")


def _key(line: str) -> int:
    return xxhash.xxh3_64_intdigest(line) - (1 << 63)  # a signed long
