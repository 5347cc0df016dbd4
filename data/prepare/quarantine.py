"""What could not be read: kept with the reason, counted, and too much of it an error."""

from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from data.errors import DataError
from data.prepare.hashed import BITS, leading_bits
from data.prepare.inputs import Input
from data.prepare.session import spark_path

MALFORMED = "malformed"  # a line that is no JSON object, a row that does not fit the CSV's header
NO_UTF8 = "no_utf8"
NO_TEXT = "no_text"  # a record without text
UNREADABLE = "unreadable_file"  # one record for a file that can't be read to its end
TOO_LONG = "too_long"  # a document over the source's max_document_mb
REASONS = (MALFORMED, NO_UTF8, NO_TEXT, UNREADABLE, TOO_LONG)
FOLDER = "quarantine"
RECORD_CHARACTERS = 1000  # of a raw record that are kept
PART_RECORDS = 100_000  # of one file of the quarantine, about


def check(raw: DataFrame, item: Input) -> None:
    """Refuses a source too much of which can't be read.

    Raises:
        DataError: none of its records has text where the recipe looks for it, or more of them than its
            max_quarantined can't be read. What is too long could be read, and counts for nothing here.
    """
    counts = dict[str | None, int](row[:] for row in raw.groupBy("dropped").count().collect())
    read, source = sum(counts.values()), item.source
    if read and counts.get(NO_TEXT) == read:
        raise DataError(
            f"{item.key}.text_column: none of the {read:,} records of {item.name} has {source.text_column!r}; name the "
            "column that holds the text"
        )
    bad = sum(number for reason, number in counts.items() if reason not in (None, TOO_LONG))
    if item.file_count:
        check_files(item, counts.get(UNREADABLE, 0))
    if bad > source.max_quarantined * read:
        each = ", ".join(f"{reason} {counts[reason]:,}" for reason in REASONS if counts.get(reason))
        worst = raw.where(F.col("dropped").isNotNull()).orderBy("dropped", "file", "record").limit(3)
        examples = "; ".join(
            f"{row.file.rpartition('/')[2]}: {row.dropped}: {row.record[:80]!r}" for row in worst.collect()
        )
        raise DataError(
            f"{item.key}: {bad:,} of {read:,} records of {item.name} can't be read ({each}), more than max_quarantined "
            f"({source.max_quarantined:.2%}); for example {examples}; repair the source or raise max_quarantined"
        )


def check_files(item: Input, unreadable: int, example: str = "") -> None:
    """Refuses a source too many of whose files can't be read to their end.

    Raises:
        DataError: with the `example`, if there is one.
    """
    if unreadable > item.source.max_quarantined * item.file_count:
        raise DataError(
            f"{item.key}: {unreadable:,} of {item.file_count:,} files of {item.name} can't be read, more than "
            f"max_quarantined ({item.source.max_quarantined:.2%}){example}; repair or remove what is damaged, or raise "
            "max_quarantined"
        )


def write(raw: DataFrame, folder: Path) -> int:
    """Writes what of `raw` (records of all sources, with their domains) can't be read, and says how much it is.

    Parquet of domain, source, file, reason, record: the same rows in the same files on any number of cores. Their bytes
    have been seen to differ between a cluster and one machine, in a few of Parquet's own numbers.
    """
    bad = raw.where(F.col("dropped").isNotNull())
    bad = bad.select("domain", "source", "file", F.col("dropped").alias("reason"), "record")
    number = bad.count()
    if not number:
        folder.mkdir()
        return 0
    parts = -(-number // PART_RECORDS)
    hashed = F.sha2(F.concat_ws("\n", "domain", "source", "file", "reason", "record"), 256)
    part = F.shiftright(leading_bits(hashed) * F.lit(parts), BITS).cast("int")
    sorted_parts = bad.repartitionById(parts, part).sortWithinPartitions(*bad.columns)
    sorted_parts.write.mode("overwrite").parquet(spark_path(folder))
    for place, file in enumerate(sorted(folder.glob("part-*.parquet"))):
        file.rename(folder / f"part-{place:05}.parquet")
    for other in folder.iterdir():
        if not other.name.startswith("part-"):
            other.unlink()
    return number
