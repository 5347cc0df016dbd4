"""From a source to its raw records: each one's text and where it comes from, or why it has none."""

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType, StructField, StructType

from data.errors import DataError
from data.prepare import remote_files
from data.prepare.hashed import fraction
from data.prepare.inputs import Input, check_columns, columns_of, is_table, quoted, read_table
from data.prepare.quarantine import MALFORMED, NO_TEXT, NO_UTF8, RECORD_CHARACTERS, TOO_LONG, UNREADABLE, check_files
from data.prepare.recipe import SourceFormat
from data.prepare.session import SPARK_ERRORS, no_glob, sentence, spark_path

LINEAGE = ("origin", "licence", "time")
# All strings. `dropped`: null, or a reason of quarantine.py's; then `record` is the beginning of the raw record, and
# text is null. `file`: where it was read.
RAW = "text", *LINEAGE, "file", "dropped", "record"
PREFIX = 4  # hex digits of a hash, by which a limit's last record is found
MEGABYTE = 1_000_000
ESCAPED_BYTES = 6  # that JSON may spell one byte of text with: \\u0041
EMPTY = "its name says that it is compressed, and it has no byte"
NO_BZIP2 = "its name says bzip2, its first bytes do not"
_BROKEN = "__malformed"
_REPLACEMENT = "\ufffd"
_NAMED_FILE = re.compile(r"FAILED_READ_FILE[^\]]*\] Encountered error while reading file (\S+?)\.(?:\s|$)")


def write_raw(spark: SparkSession, item: Input, folder: Path, scratch: Path) -> None:
    """Writes a source's records, with columns RAW.

    A file that can't be read to its end gives nothing but one record that says why; the others are then read from the
    beginning.

    Raises:
        DataError: the source lacks a named column, or too many of its files can't be read.
    """
    paths = _paths(spark, item, scratch)
    too_long = _too_long(spark, item, paths) if item.source.format is SourceFormat.text else {}
    unreadable = _compressed_in_name_alone(spark, item, paths)
    while True:
        left_out = [*unreadable, *too_long]
        _check_unreadable(unreadable, item)
        if left_out and paths == [item.source.path]:
            paths = _files_at(spark, item.source.path)
        try:
            records = _read(spark, item, [path for path in paths if _plain(path) not in left_out])
            if left_out:
                records = records.unionByName(_left_out(spark, UNREADABLE, unreadable, TOO_LONG, too_long))
            return records.write.parquet(spark_path(folder))
        except AnalysisException as error:
            raise DataError(f"{item.key}: can't read {item.name}: {sentence(error)}") from None
        except SPARK_ERRORS as error:
            named = _NAMED_FILE.search(str(error))
            if named is None or (file := unquote(_plain(named[1]))) in unreadable:  # Spark writes it as a URL
                raise
            unreadable[file] = _reason(error)
            shutil.rmtree(folder, ignore_errors=True)


def _check_unreadable(reasons: dict[str, str], item: Input) -> None:
    if reasons:
        file, reason = list(reasons.items())[-1]
        check_files(item, len(reasons), f": {file}: {reason}")


def _too_long(spark: SparkSession, item: Input, paths: list[str]) -> dict[str, str]:
    """Text files over the limit, with their sizes: they are not even read."""
    limit = item.source.max_document_mb * MEGABYTE
    if paths == [item.source.path]:
        files = remote_files.list_files(spark, item.source.path).where(F.col("length") > limit)
        sizes = {row.path: row.length for row in files.select("path", "length").collect()}
    else:
        sizes = {path: Path(_plain(path)).stat().st_size for path in paths}
    return {_plain(path): f"{size:,} bytes" for path, size in sizes.items() if size > limit}


def _files_at(spark: SparkSession, url: str) -> list[str]:
    return [no_glob(row.path) for row in remote_files.list_files(spark, url).select("path").collect()]


def _compressed_in_name_alone(spark: SparkSession, item: Input, paths: list[str]) -> dict[str, str]:
    """Files that are compressed by their names alone, with the reason: read by lines, Hadoop finds them empty."""
    empty = []
    if paths == [item.source.path]:  # Spark lists no empty file
        files = remote_files.list_files(spark, item.source.path).where(F.endswith("path", F.lit(".bz2")))
        bzip2 = [row.path for row in files.select("path").collect()]
    else:
        named = [path for path in paths if path.endswith((".gz", ".bz2", ".zst"))]
        empty = [path for path in named if not Path(_plain(path)).stat().st_size]
        bzip2 = [path for path in named if path.endswith(".bz2") and path not in empty]
    other = [path for path in bzip2 if not remote_files.begins_with(spark, _unescaped(path), b"BZh")]
    return {_plain(path): EMPTY for path in empty} | {_plain(path): NO_BZIP2 for path in other}


def _paths(spark: SparkSession, item: Input, scratch: Path) -> list[str]:
    """What Spark is to read; none of a table."""
    url = item.source.path
    if item.files or is_table(item.source):
        return [spark_path(path) for path in item.files]
    if remote_files.is_hadoop(spark, url):
        return [url]
    return [spark_path(path) for path in remote_files.fetch(spark, url, f"{item.key}.path", scratch)]


def _read(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    """The records with columns RAW, sampled and limited."""
    if is_table(item.source):
        frame = _read_table(spark, item)
    elif paths:
        readers = {
            SourceFormat.jsonl: _read_jsonl,
            SourceFormat.csv: _read_csv,
            SourceFormat.text: _read_text,
            SourceFormat.parquet: _read_parquet,
            SourceFormat.delta: _read_delta,
        }
        frame = readers[item.source.format](spark, item, paths)
    else:
        return spark.createDataFrame([], _SCHEMA)
    damaged = F.col("damaged") | ~F.is_valid_utf8(F.coalesce("text", F.lit("")))
    reason = F.when(F.col("long"), TOO_LONG).when(damaged, NO_UTF8)
    reason = reason.when(F.col("malformed"), MALFORMED).when(F.isnull("text"), NO_TEXT)
    reason = reason.when(F.octet_length("text") > item.source.max_document_mb * MEGABYTE, TOO_LONG)
    raw = F.coalesce("raw", "text", F.to_json(F.struct(*LINEAGE)))
    origin = F.coalesce("origin", "name")
    frame = frame.withColumns({"dropped": reason, "raw": raw})
    chosen = _chosen(frame.withColumn("hash", F.sha2(F.coalesce("text", "raw"), 256)), item)
    dropped = F.col("dropped").isNotNull()
    return chosen.select(
        F.when(~dropped, F.col("text")).alias("text"),
        F.make_valid_utf8(origin).alias("origin"),
        F.make_valid_utf8("licence").alias("licence"),
        F.make_valid_utf8("time").alias("time"),
        "file",
        "dropped",
        F.when(dropped, F.substring(F.make_valid_utf8("raw"), 1, RECORD_CHARACTERS)).alias("record"),
    )


# Each reader gives the columns text, origin, licence, time; file, name (the file's own); raw, at least its beginning;
# long, malformed, damaged (no UTF-8).


def _read_jsonl(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    """Lines first, objects second: so a line that is no object, or lacks its text, can be shown as it is, and one that
    is too long to have a text that may stay is neither taken apart nor copied."""
    line = F.col("value")
    long = F.octet_length(line) > ESCAPED_BYTES * item.source.max_document_mb * MEGABYTE
    # As the first of two items of an array: Spark reads the first value, and passes over what follows it.
    schema = ArrayType(StructType([StructField(name, StringType()) for name in _unique(item)]))
    array = F.concat(F.lit("["), line, F.lit(",{}]"))
    options = {"mode": "PERMISSIVE", "maxStringLen": str(2**31 - 1)}  # `long` is the limit
    lines = spark.read.text(paths, recursiveFileLookup=True).where(long | (F.trim("value") != ""))
    lines = lines.select(
        F.when(~long & F.is_valid_utf8(line), F.from_json(array, schema, options)).alias("objects"),
        *_file(),
        F.substring(line, 1, RECORD_CHARACTERS).alias("raw"),
        long.alias("long"),
        (~long & ~F.is_valid_utf8(line)).alias("damaged"),
    )
    lines = lines.withColumn("object", F.when(F.size("objects") == 2, F.col("objects")[0]))
    malformed = F.col("object").isNull()
    return lines.select(
        *_mapped(item, "object."), "file", "name", "raw", "long", malformed.alias("malformed"), "damaged"
    )


def _read_csv(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    """RFC 4180 with a header: quotes may hold line ends, and a quote is doubled.

    Bytes that are no UTF-8 come as U+FFFD.
    """
    options: dict[str, Any] = {"header": True, "multiLine": True, "quote": '"', "escape": '"', "mode": "PERMISSIVE"}
    options |= {"recursiveFileLookup": True, "enforceSchema": False, "columnNameOfCorruptRecord": _BROKEN}
    options["columnPruning"] = False  # with it, fields too many or too few go unnoticed
    headers = (spark.read.options(**options).csv(path).columns for path in paths)
    names = next(filter(None, headers), [])  # an empty file has none
    check_columns(item, names)
    schema = StructType([StructField(name, StringType()) for name in [*names, _BROKEN]])
    frame = spark.read.options(**options).schema(schema).csv(paths)
    columns = _mapped(item)
    damaged = F.coalesce(F.contains(F.col(quoted(item.source.text_column)), F.lit(_REPLACEMENT)), F.lit(False))
    raw = F.col(_BROKEN)
    return frame.select(
        *columns,
        *_file(),
        raw.alias("raw"),
        F.lit(False).alias("long"),
        raw.isNotNull().alias("malformed"),
        damaged.alias("damaged"),
    )


def _read_text(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    frame = spark.read.text(paths, wholetext=True, recursiveFileLookup=True)
    lineage = [_nothing().alias(name) for name in LINEAGE]
    return frame.select(F.col("value").alias("text"), *lineage, *_file(), *_sound())


def _read_parquet(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    frame = spark.read.parquet(*paths, recursiveFileLookup=True)
    check_columns(item, frame.columns)
    return frame.select(*_mapped(item), *_file(), *_sound())


def _read_delta(spark: SparkSession, item: Input, paths: list[str]) -> DataFrame:
    """The columns of partitions are in the names of folders, and older files lack newer columns."""
    root = spark_path(Path(item.source.path).expanduser())
    frame = spark.read.option("basePath", root).option("mergeSchema", True).parquet(*paths)
    check_columns(item, frame.columns)
    return frame.select(*_mapped(item), *_file(), *_sound())


def _read_table(spark: SparkSession, item: Input) -> DataFrame:
    frame = read_table(spark, item)
    check_columns(item, frame.columns)
    return frame.select(*_mapped(item), F.lit(item.name).alias("file"), F.lit(item.name).alias("name"), *_sound())


def _mapped(item: Input, prefix: str = "") -> list[Column]:
    """text, origin, licence and time from the columns that the recipe names."""
    named = columns_of(item.source)
    return [
        (F.col(prefix + quoted(named[key])).cast("string") if (key := f"{name}_column") in named else _nothing()).alias(
            name
        )
        for name in ("text", *LINEAGE)
    ]


def _file() -> list[Column]:
    name = F.url_decode(F.replace(F.col("_metadata.file_name"), F.lit("+"), F.lit("%2B")))  # + is itself there
    return [F.col("_metadata.file_path").alias("file"), name.alias("name")]


def _nothing() -> Column:
    return F.lit(None).cast("string")


def _sound() -> list[Column]:
    """Of formats whose records are read or not, with nothing between."""
    return [_nothing().alias("raw"), *(F.lit(False).alias(name) for name in ("long", "malformed", "damaged"))]


def _unique(item: Input) -> dict[str, None]:
    return dict.fromkeys(columns_of(item.source).values())


def _chosen(frame: DataFrame, item: Input) -> DataFrame:
    """Those whose hashes are the smallest: the same ones in any order, and of more text at least these."""
    if item.source.sample < 1:
        frame = frame.where(fraction(F.col("hash")) < item.source.sample)
    if item.source.limit is None:
        return frame
    prefix = F.substring("hash", 1, PREFIX)
    before = 0
    for start, number in frame.groupBy(prefix.alias("start")).count().orderBy("start").collect():
        if before + number >= item.source.limit:
            few = frame.where(prefix == start).select("hash").orderBy("hash").limit(item.source.limit - before)
            return frame.where(F.col("hash") <= few.agg(F.max("hash")).first()[0])  # type: ignore[index]
        before += number
    return frame


def _left_out(spark: SparkSession, *reasons: Any) -> DataFrame:
    """Records of files that were not read; `reasons`: in turn, why, and files with what there is to say of each."""
    rows = [
        {"file": file, "origin": file.rpartition("/")[2], "dropped": reason, "record": said}
        for reason, files in zip(reasons[::2], reasons[1::2], strict=True)
        for file, said in files.items()
    ]
    return spark.createDataFrame(rows, _SCHEMA)


def _plain(path: str) -> str:
    """A path as people write it, from our own spelling for Spark, or Hadoop's."""
    return re.sub("^file:/*", "/", _unescaped(path))


def _unescaped(path: str) -> str:
    return re.sub(r"\\([\\*?\[\]{}])", r"\1", path)


def _reason(error: Exception) -> str:
    causes = re.findall(r"Caused by: (.*)", str(error))
    return (causes[-1] if causes else sentence(error))[:RECORD_CHARACTERS]


_SCHEMA = ", ".join(f"{name} string" for name in RAW)
