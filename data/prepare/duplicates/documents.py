"""What the steps on unique documents share: their rows, which of two comes first, what is told of those that go."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from data.prepare.cleaning.pii import MaskPii
from data.prepare.session import spark_path

DOCUMENTS = "documents"  # in a step's folder: its input's rows, those that it drops without text and with its name
FOUND = "found.json"
EXAMPLES = 3  # of each domain and step
EXCERPT = 100  # characters

Report = Callable[[str], None]


@dataclass
class Found:
    """What a step did to one domain."""

    dropped: int = 0
    edited: int = 0  # documents that lost a part of their text and stayed
    counts: dict[str, int] = field(default_factory=dict)  # what else there is to count, by name
    examples: list[str] = field(default_factory=list)  # sentences


def write_found(folder: Path, found: dict[str, Found]) -> None:
    (folder / FOUND).write_text(json.dumps({domain: dataclasses.asdict(of) for domain, of in found.items()}))


def read_found(folder: Path) -> dict[str, Found]:
    """By domain, what the step did that left its documents in this folder."""
    return {domain: Found(**of) for domain, of in json.loads((folder / FOUND).read_text()).items()}


def priority() -> Column:
    """A document as a struct that sorts by who stays: first domain, first source, smallest origin."""
    return F.struct("priority", "source", "origin", "id", "domain")


def is_new() -> Column:
    """Whether a document may be dropped or changed. The others, whose priority is below 0, are in the dataset that new
    ones are appended to."""
    return F.col("priority") >= 0


def read(like: DataFrame, folder: Path) -> DataFrame:
    """What a step wrote, in the session of `like`."""
    return like.sparkSession.read.parquet(spark_path(folder))


def kept(documents: DataFrame) -> DataFrame:
    """Those that no step has dropped."""
    return documents.where(F.col("dropped").isNull())


def without(documents: DataFrame, dropped: DataFrame, step: str) -> DataFrame:
    """The documents, those with an id in `dropped` without text and marked with the step's name."""
    marked = documents.join(dropped.select("id", F.lit(step).alias("by")), "id", "left")
    text = F.when(F.col("by").isNull(), F.col("text")).alias("text")
    changed = {"text": text, "dropped": F.coalesce("dropped", "by").alias("dropped")}
    return marked.select(*(changed.get(column, F.col(column)) for column in documents.columns))


def first_of_each_domain(rows: DataFrame) -> DataFrame:
    """EXAMPLES rows of each domain, always the same ones."""
    place = F.row_number().over(Window.partitionBy("domain").orderBy("id"))
    return rows.withColumn("place", place).where(F.col("place") <= EXAMPLES).drop("place").orderBy("domain", "id")


def excerpt(text: str) -> str:
    """The beginning of a text, on one line and without addresses: the manifest is to spread nobody's."""
    line = MaskPii().apply(" ".join(text[: 2 * EXCERPT].split()))
    return line if len(line) <= EXCERPT else f"{line[:EXCERPT]}..."


def texts_of(batch: pa.RecordBatch) -> list[str]:
    return batch.column("text").to_pylist()
