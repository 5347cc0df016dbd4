"""From the recipe's sources to one DataFrame of raw records, and a fingerprint of the files behind them."""

import functools
import glob
import hashlib
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from data.errors import DataError
from data.prepare.recipe import Domain, Source, SourceFormat
from data.prepare.session import spark_path

MALFORMED = "malformed"  # a line that is no JSON object, or no UTF-8
NO_TEXT = "no_text"  # a record without text
_BROKEN = "__malformed"


@dataclass(frozen=True)
class Input:
    """A source with the files it names."""

    domain: str
    number: int  # in the domain's list
    source: Source
    files: list[Path]  # sorted

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def find_inputs(domains: dict[str, Domain]) -> list[Input]:
    """Every source's files, in the recipe's order.

    Raises:
        DataError: a source names no file, or one that Spark would pass over.
    """
    return [
        Input(name, number, source, _files(source.path, f"domains.{name}.sources[{number}].path"))
        for name, domain in domains.items()
        for number, source in enumerate(domain.sources)
    ]


def fingerprint(inputs: list[Input]) -> str:
    """sha256 over the files' contents, in order; their names and places don't count."""
    total = hashlib.sha256()
    for item in inputs:
        for path in item.files:
            try:
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise DataError(f"can't read {path} ({error.strerror})") from None
        total.update(b"|")
    return total.hexdigest()


def read(spark: SparkSession, inputs: list[Input]) -> DataFrame:
    """Raw records of all sources.

    Columns: domain, priority (int: place of the domain in the recipe), source (int), origin, text, and `dropped`, which
    is MALFORMED, NO_TEXT or null.

    Raises:
        DataError: a Parquet source lacks a named column.
    """
    priority = {name: place for place, name in enumerate(dict.fromkeys(item.domain for item in inputs))}
    frames = [
        _read_source(spark, item).select(
            F.lit(item.domain).alias("domain"),
            F.lit(priority[item.domain]).alias("priority"),
            F.lit(item.number).alias("source"),
            "origin",
            "text",
            "dropped",
        )
        for item in inputs
    ]
    return functools.reduce(DataFrame.unionByName, frames)


def _read_source(spark: SparkSession, item: Input) -> DataFrame:
    paths = [spark_path(path) for path in item.files]
    source = item.source
    file_name = F.col("_metadata.file_name")
    if source.format is SourceFormat.text:
        frame = spark.read.text(paths, wholetext=True)
        return frame.select(F.col("value").alias("text"), file_name.alias("origin"), F.lit(None).alias("dropped"))
    if source.format is SourceFormat.parquet:
        frame = spark.read.parquet(*paths)
        for key, name in (("text_column", source.text_column), ("origin_column", source.origin_column)):
            if name is not None and name not in frame.columns:
                where = f"domains.{item.domain}.sources[{item.number}].{key}"
                raise DataError(f"{where}: {source.path} has no column {name!r}; it has {', '.join(frame.columns)}")
        malformed: Column = F.lit(False)
    else:
        fields = dict.fromkeys(filter(None, [source.text_column, source.origin_column, _BROKEN]))
        schema = StructType([StructField(name, StringType()) for name in fields])
        frame = spark.read.json(
            paths,
            schema=schema,
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=_BROKEN,
        )
        malformed = F.col(_BROKEN).isNotNull()
    text = _column(source.text_column)
    origin = _column(source.origin_column) if source.origin_column else F.lit(None)
    dropped = F.when(malformed, MALFORMED).when(text.isNull(), NO_TEXT)
    return frame.select(
        text.cast("string").alias("text"),
        F.coalesce(origin.cast("string"), file_name).alias("origin"),
        dropped.alias("dropped"),
    )


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")


def _files(pattern: str, key: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = [
            file for file in path.rglob("*") if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - a pattern may be absolute
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise DataError(
            f"{key}: there is no file {pattern} (from {Path.cwd()}); correct the path or make the files first"
        )
    for file in files:
        if file.name[0] in "._":
            raise DataError(f"{key}: Spark passes over files whose name begins with '{file.name[0]}'; rename {file}")
    return files
