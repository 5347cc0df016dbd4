"""From raw records to documents: cleaned, unique, each with its split and its place in the shuffled order."""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from data.errors import DataError
from data.manifest import CleaningRecord, DeduplicationRecord
from data.prepare import append
from data.prepare.beside import beside
from data.prepare.cleaning import counts as cleaning_counts
from data.prepare.cleaning import engine, steps
from data.prepare.duplicates.documents import Found, is_new
from data.prepare.hashed import fraction, rehash
from data.prepare.inputs import Input
from data.prepare.quarantine import REASONS
from data.prepare.recipe import PrepareRecipe
from data.prepare.session import spark_path

TOP = 20  # origins and licences of a domain that are counted by name
# What is counted of unique documents.
ENDS = ["domain", "source", "split", "origin", "licence", "bytes", "dropped", "new"]
BROKEN = (*REASONS, engine.EMPTY)  # what is wrong with records that no cleaning step sees


@dataclass
class SourceCounts:
    """Counts of one source, read to kept."""

    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    bytes: int = 0

    @property
    def duplicates(self) -> int:
        return self.read - sum(self.dropped.values()) - self.kept


@dataclass
class DomainCounts:
    """Counts of one domain, read to kept."""

    read: int = 0
    sources: dict[int, SourceCounts] = field(default_factory=lambda: defaultdict(SourceCounts))
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BROKEN, 0))
    cleaning: list[CleaningRecord] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)  # split -> documents
    bytes: int = 0
    new_bytes: dict[str, int] = field(default_factory=dict)  # split -> of documents that are not in the dataset yet
    origins: dict[str, int] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    deduplication: list[DeduplicationRecord] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        return self.read - sum(self.dropped.values()) - sum(self.kept.values())


def write_cleaned(raw: DataFrame, domain: str, recipe: PrepareRecipe, folder: Path) -> None:
    """Takes a source's raw records (sources.RAW) through the steps of their domain.

    A dropped one keeps its row, without text. Columns out: origin, licence, time, and engine.COLUMNS.
    """
    of_domain = {domain: steps.build(recipe.cleaning_of(domain))}

    def clean(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return engine.clean_batches(batches, of_domain)

    raw = raw.drop("file", "record").withColumn("domain", F.lit(domain))
    kept = [column for column in raw.schema if column.name not in engine.COLUMNS.names]
    schema = StructType([*kept, *from_arrow_schema(engine.COLUMNS)])
    as_bytes = raw.withColumn("text", F.col("text").cast("binary"))  # Spark's strings are unchecked bytes
    as_bytes.mapInArrow(clean, schema).drop("domain").write.parquet(spark_path(folder))


def union(inputs: list[Input], sources: list[DataFrame]) -> DataFrame:
    """The records of all sources, with domain, priority (int: its place in the recipe) and source (int).

    These are no part of a source's own stages: a domain put before others changes none of theirs.
    """
    priority = {name: place for place, name in enumerate(dict.fromkeys(item.domain for item in inputs))}
    frames = [
        frame.withColumns(
            {
                "domain": F.lit(item.domain),
                "priority": F.lit(priority[item.domain]),
                "source": F.lit(item.number),
            }
        )
        for item, frame in zip(inputs, sources, strict=True)
    ]
    return functools.reduce(DataFrame.unionByName, frames)


def write_unique(cleaned: DataFrame, recipe: PrepareRecipe, folder: Path, base: DataFrame | None = None) -> None:
    """Keeps one of equal texts and gives each document its split and key.

    Columns out: domain, priority, source, split, origin, licence, time, id (long; a hash of the text), text, key (hex;
    documents are ordered by their keys), dropped (null; what later steps drop keeps its row, without text).

    `base`: the lineage of the dataset that is appended to; what it has comes first (append.py).

    Of equal texts the one of the recipe's first domain stays, then of its first source, then of the smallest origin.
    A minimum needs no sort and has a partial sum: a text that comes a million times is one row a task before it moves.
    """
    copies = cleaned.where(F.col("dropped").isNull()).withColumn("hash", F.sha2("text", 256))
    first = F.min(F.struct("priority", "source", "origin", "licence", "time", "domain", "text")).alias("first")
    found_in = F.collect_set(F.struct("domain", "source")).alias("found_in")
    unique = copies.groupBy("hash").agg(first, *([] if base is None else [found_in]))
    unique = unique.select(
        "first.domain",
        "first.priority",
        "first.source",
        F.when(fraction(rehash("heldout", F.col("hash"))) < recipe.heldout_fraction, "heldout")
        .otherwise("train")
        .alias("split"),
        "first.origin",
        "first.licence",
        "first.time",
        F.xxhash64("hash").alias("id"),
        "first.text",
        rehash(f"order {recipe.seed}", F.col("hash")).alias("key"),
        F.lit(None).cast("string").alias("dropped"),
        *([] if base is None else ["found_in"]),
    )
    if base is not None:
        unique = append.old_first(unique, base, len(recipe.domains))
    unique.write.parquet(spark_path(folder))


def count(
    cleaned: DataFrame, ends: DataFrame, found: dict[str, dict[str, Found]], recipe: PrepareRecipe
) -> dict[str, DomainCounts]:
    """Counts per domain; only counts and a few examples reach the driver.

    `ends`: of the unique documents, what is counted (ends_of); `found`: by step and by domain, what it did.
    """
    with beside(lambda: (cleaning_counts.edits(cleaned), cleaning_counts.examples(cleaned))) as of_steps:
        counts, by_rule = _count_cleaned(cleaned, recipe)
        _count_unique(ends, counts)
    edited, examples = of_steps.result()
    for domain, of in counts.items():
        names = list(steps.build(recipe.cleaning_of(domain)))
        documents_in = of.read - sum(of.dropped.values())
        of.cleaning = cleaning_counts.records(domain, names, documents_in, by_rule, edited, examples)
        of.dropped.update({record.step: sum(record.dropped.values()) for record in of.cleaning})
        _count_steps(of, {step: by_domain.get(domain, Found()) for step, by_domain in found.items()})
    return counts


def _count_cleaned(
    cleaned: DataFrame, recipe: PrepareRecipe
) -> tuple[dict[str, DomainCounts], dict[tuple[str, str, str], int]]:
    """What was read and what has no text by domain, and the drops by domain, step and rule."""
    counts = {domain: DomainCounts() for domain in recipe.domains}
    by_rule: dict[tuple[str, str, str], int] = {}
    fates = cleaned.groupBy("domain", "source", "dropped", "rule", "language").count()
    for domain, source, dropped, rule, language, number in fates.collect():
        of, of_source = counts[domain], counts[domain].sources[source]
        of.read += number
        of_source.read += number
        if dropped is not None:
            of_source.dropped[dropped] = of_source.dropped.get(dropped, 0) + number
        if rule is not None:
            by_rule[domain, dropped, rule] = by_rule.get((domain, dropped, rule), 0) + number
        elif dropped is not None:
            of.dropped[dropped] += number
        elif language is not None:
            of.languages[language] = of.languages.get(language, 0) + number
            of_source.languages[language] = of_source.languages.get(language, 0) + number
    return counts, by_rule


def _count_unique(ends: DataFrame, counts: dict[str, DomainCounts]) -> None:
    """Takes in what became of unique documents."""
    sums = ends.groupBy("domain", "source", "split", "dropped", "new").agg(F.count("*"), F.sum("bytes"))
    for domain, source, split, dropped, new, number, size in sums.collect():
        of, of_source = counts[domain], counts[domain].sources[source]
        if dropped is not None:
            of_source.dropped[dropped] = of_source.dropped.get(dropped, 0) + number
            continue
        of.kept[split] = of.kept.get(split, 0) + number
        of.bytes += size
        if new:
            of.new_bytes[split] = of.new_bytes.get(split, 0) + size
        of_source.kept += number
        of_source.bytes += size
    kept = ends.where(F.col("dropped").isNull())
    for domain, kind, value, number in _top(kept).collect():
        (counts[domain].origins if kind == "origin" else counts[domain].licences)[value] = number


def check(counts: dict[str, DomainCounts], recipe: PrepareRecipe) -> None:
    """Refuses a domain that can't be trained on.

    Raises:
        DataError: a domain or its held-out split is empty.
    """
    for domain, of in counts.items():
        dropped = ", ".join(f"{step} {number:,}" for step, number in of.dropped.items() if number)
        fate = f"read {of.read:,}; dropped: {dropped or 'none'}; duplicates {of.duplicates:,}"
        if not of.kept:
            raise DataError(f"domains.{domain}: no document is left ({fate}); check its sources and cleaning")
        if "train" not in of.kept:
            raise DataError(
                f"domains.{domain}: every document is held out ({fate}); lower heldout_fraction or add text"
            )
        if recipe.heldout_fraction and "heldout" not in of.kept:
            raise DataError(
                f"domains.{domain}: none of its {of.kept['train']:,} documents is held out; raise heldout_fraction "
                f"(now {recipe.heldout_fraction:g}), add text, or set it to 0 to hold nothing out anywhere"
            )


def train_sample(unique: DataFrame, counts: dict[str, DomainCounts], megabytes: int, folder: Path) -> None:
    """Writes the texts of train documents, about `megabytes` of them: those whose key lies below a threshold."""
    total = sum(of.bytes for of in counts.values())
    limit = min(1.0, megabytes * 1_000_000 / max(total, 1))
    chosen = unique.where((F.col("split") == "train") & (fraction(F.col("key")) < limit))
    chosen.select(F.substring("text", 1, 1_000_000).alias("text")).write.parquet(spark_path(folder))


def read_selected(spark: SparkSession, folder: Path) -> DataFrame:
    """The rows of a stage that no step has dropped."""
    return read_stage(spark, folder).where(F.col("dropped").isNull())


def ends_of(unique: DataFrame, base: DataFrame | None) -> DataFrame:
    """What is counted of unique documents, of which steps have dropped some (columns: ENDS).

    `base`: the lineage of the dataset that new ones are appended to, which has the others as they were kept.
    """
    columns = {"bytes": F.octet_length("text").cast("long"), "new": F.lit(True)}
    new = unique.where(is_new()).withColumns(columns).select(ENDS)
    if base is None:
        return new
    return new.unionByName(base.withColumns({"dropped": F.lit(None).cast("string"), "new": F.lit(False)}).select(ENDS))


def read_stage(spark: SparkSession, folder: Path) -> DataFrame:
    """A stage's rows, as its write left them."""
    return spark.read.parquet(spark_path(folder))


def _count_steps(of: DomainCounts, steps: dict[str, Found]) -> None:
    """Takes in what the steps on unique documents did; what stays is known, so what went in follows from the end."""
    documents_out = sum(of.kept.values())
    for step, found in reversed(steps.items()):
        documents_in = documents_out + found.dropped
        record = DeduplicationRecord(step, documents_in, documents_out, **dataclasses.asdict(found))
        of.deduplication.insert(0, record)
        documents_out = documents_in
    of.dropped.update({step: found.dropped for step, found in steps.items()})


def _top(kept: DataFrame) -> DataFrame:
    """(domain, kind, value, documents) of each domain's most frequent origins and licences, which are the kinds."""
    of_url = F.regexp_replace("origin", "^[A-Za-z][A-Za-z0-9+.-]*://", "")  # of a URL its host is counted
    values = {"origin": F.substring_index(of_url, "/", 1), "licence": F.col("licence")}
    named = F.array(*(F.struct(F.lit(kind).alias("kind"), value.alias("value")) for kind, value in values.items()))
    of = kept.select("domain", F.explode(named).alias("of")).select("domain", "of.*").where(F.col("value").isNotNull())
    groups = of.groupBy("domain", "kind", "value").count()
    place = F.row_number().over(Window.partitionBy("domain", "kind").orderBy(F.desc("count"), "value"))
    ranked = groups.withColumn("place", place).where(F.col("place") <= TOP)
    return ranked.orderBy("domain", "kind", "place").drop("place")
