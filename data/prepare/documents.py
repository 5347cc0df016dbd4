"""From raw records to documents: cleaned, unique, each with its split and its place in the shuffled order."""

from dataclasses import dataclass, field
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from data.errors import DataError
from data.prepare import cleaning
from data.prepare.hashed import fraction, rehash
from data.prepare.recipe import PrepareRecipe
from data.prepare.session import spark_path
from data.prepare.sources import NO_TEXT, Input

TOP_ORIGINS = 20


@dataclass
class DomainCounts:
    """Counts of one domain, read to kept."""

    read: int = 0
    read_by_source: dict[int, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(cleaning.STEPS, 0))
    kept: dict[str, int] = field(default_factory=dict)  # split -> documents
    bytes: int = 0
    origins: dict[str, int] = field(default_factory=dict)

    @property
    def duplicates(self) -> int:
        return self.read - sum(self.dropped.values()) - sum(self.kept.values())


def write_cleaned(raw: DataFrame, recipe: PrepareRecipe, folder: Path) -> None:
    """Cleans raw records (columns as sources.read gives them); a dropped one keeps its row, without text."""
    cleaned = raw.withColumn("text", cleaning.clean_column(F.col("text")))
    cleaned = cleaned.withColumn("dropped", cleaning.drop_reason(F.col("dropped"), F.col("text"), recipe.cleaning))
    cleaned = cleaned.withColumn("text", F.when(F.col("dropped").isNull(), F.col("text")))
    cleaned.write.parquet(spark_path(folder))


def write_unique(cleaned: DataFrame, recipe: PrepareRecipe, folder: Path) -> None:
    """Keeps one of equal texts and gives each document its split and key.

    Columns out: domain, split, origin, text, key (hex; the order of documents is the order of their keys).

    Of equal texts the one of the recipe's first domain stays, then of its first source, then of the smallest origin.
    A minimum needs no sort and has a partial sum: a text that comes a million times is one row a task before it moves.
    """
    copies = cleaned.where(F.col("dropped").isNull()).withColumn("hash", F.sha2("text", 256))
    first = F.min(F.struct("priority", "source", "origin", "domain", "text")).alias("first")
    unique = copies.groupBy("hash").agg(first)
    unique.select(
        "first.domain",
        F.when(fraction(rehash("heldout", F.col("hash"))) < recipe.heldout_fraction, "heldout")
        .otherwise("train")
        .alias("split"),
        "first.origin",
        "first.text",
        rehash(f"order {recipe.seed}", F.col("hash")).alias("key"),
    ).write.parquet(spark_path(folder))


def count(cleaned: DataFrame, unique: DataFrame, domains: list[str]) -> dict[str, DomainCounts]:
    """Counts per domain; only counts reach the driver."""
    counts = {domain: DomainCounts() for domain in domains}
    for domain, source, dropped, number in cleaned.groupBy("domain", "source", "dropped").count().collect():
        counts[domain].read += number
        counts[domain].read_by_source[source] = counts[domain].read_by_source.get(source, 0) + number
        if dropped is not None:
            counts[domain].dropped[dropped] += number
    kept = unique.groupBy("domain", "split").agg(F.count("*"), F.sum(F.octet_length("text")))
    for domain, split, number, size in kept.collect():
        counts[domain].kept[split] = number
        counts[domain].bytes += size
    for domain, origin, number in _top_origins(unique).collect():
        counts[domain].origins[origin] = number
    return counts


def check(counts: dict[str, DomainCounts], inputs: list[Input], cleaned: DataFrame, recipe: PrepareRecipe) -> None:
    """Refuses a domain that can't be trained on.

    Raises:
        DataError: a source has no text where the recipe looks for it, or a domain or its held-out split is empty.
    """
    without_text = cleaned.where(F.col("dropped") == NO_TEXT).groupBy("domain", "source").count().collect()
    missing = {(domain, source): number for domain, source, number in without_text}
    for item in inputs:
        read = counts[item.domain].read_by_source.get(item.number, 0)
        if read and missing.get((item.domain, item.number)) == read:
            raise DataError(
                f"domains.{item.domain}.sources[{item.number}].text_column: none of the {read:,} records of "
                f"{item.source.path} has {item.source.text_column!r}; name the column that holds the text"
            )
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


def read_stage(spark: SparkSession, folder: Path) -> DataFrame:
    """A stage's rows, as its write left them."""
    return spark.read.parquet(spark_path(folder))


def _top_origins(unique: DataFrame) -> DataFrame:
    """(domain, origin up to its first '/', documents) of each domain's most frequent ones."""
    groups = unique.groupBy("domain", F.substring_index("origin", "/", 1).alias("origin")).count()
    place = F.row_number().over(Window.partitionBy("domain").orderBy(F.desc("count"), "origin"))
    return (
        groups.withColumn("place", place).where(F.col("place") <= TOP_ORIGINS).drop("place").orderBy("domain", "place")
    )
