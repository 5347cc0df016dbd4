"""Files at a URL: read by Hadoop where it knows the scheme, else brought here by fsspec first."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from data.errors import DataError
from data.prepare.session import SPARK_ERRORS, is_remote, sentence
from data.prepare.stages import fingerprint_of

UNKNOWN_SCHEME = "No FileSystem for scheme"


def identify(spark: SparkSession, url: str, key: str) -> tuple[int, int, str]:
    """How many files, how many bytes, and a fingerprint of their addresses, sizes and times. Reads none of them.

    Raises:
        DataError: nothing is there, or nothing here reads such a URL.
    """
    try:
        listed = list_files(spark, url)
    except SPARK_ERRORS as error:
        if UNKNOWN_SCHEME not in str(error):
            raise DataError(f"{key}: can't read {url}: {sentence(error)}") from None
        return _identify_by_fsspec(url, key)
    line = F.concat_ws("|", "path", "length", F.unix_micros("modificationTime"))
    lines = F.sha2(F.concat_ws("\n", F.sort_array(F.collect_list(line))), 256)
    row = listed.agg(F.count("*"), F.sum("length"), lines).first()
    assert row is not None
    if not row[0]:
        raise DataError(f"{key}: there is no file at {url}; correct the URL")
    return row[0], row[1], row[2]


def list_files(spark: SparkSession, url: str) -> DataFrame:
    """path, length and modificationTime of every file at a URL that Hadoop reads."""
    files = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(url)
    return files.select("path", "length", "modificationTime")


def begins_with(spark: SparkSession, path: str, magic: bytes) -> bool:
    """Are these a file's first bytes? One that only a Spark Connect server can open counts as one that begins so."""
    if path.startswith("file:"):
        with Path(re.sub("^file:/*", "/", path)).open("rb") as file:
            return file.read(len(magic)) == magic
    if is_remote(spark):
        return True
    place = spark._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
    stream = place.getFileSystem(spark._jsc.hadoopConfiguration()).open(place)
    try:
        return [stream.read() for _ in magic] == list(magic)
    finally:
        stream.close()


def is_hadoop(spark: SparkSession, url: str) -> bool:
    """Does Spark itself read this URL?"""
    try:
        list_files(spark, url)
    except SPARK_ERRORS as error:
        return UNKNOWN_SCHEME not in str(error)
    return True


def fetch(spark: SparkSession, url: str, key: str, folder: Path) -> list[Path]:
    """Copies the files into `folder` in tasks, each in a folder of its own, so that it keeps its name."""
    _, files = _find(url, key)
    places = [folder / f"{number:07}" / name.rpartition("/")[2] for number, name in enumerate(files)]
    pairs = spark.createDataFrame(pa.table({"name": files, "place": [str(place.absolute()) for place in places]}))
    tasks = pairs.repartition(min(len(files), 1000), "name")
    for row in tasks.mapInArrow(partial(_fetch_batches, url=url), "name string, mistake string").collect():
        raise DataError(f"{key}: can't fetch {row.name}: {row.mistake}")
    return places


def _identify_by_fsspec(url: str, key: str) -> tuple[int, int, str]:
    fs, files = _find(url, key)
    sizes = [fs.info(file)["size"] or 0 for file in files]
    return len(files), sum(sizes), fingerprint_of([[file, fs.ukey(file)] for file in files])


def _find(url: str, key: str) -> tuple[Any, list[str]]:
    """fsspec's file system, and its names of the files at a URL: one, those of a folder, or of a glob."""
    try:
        fs, path = fsspec.core.url_to_fs(url)
        files = fs.find(path) if fs.isdir(path) else [file for file in fs.glob(path) if fs.isfile(file)]
    except (ImportError, ValueError, OSError) as error:
        raise DataError(
            f"{key}: neither Spark nor fsspec can read {url} ({error}); install fsspec's package for it, or give Spark "
            "Hadoop's by spark.conf"
        ) from None
    if not files:
        raise DataError(f"{key}: there is no file at {url}; correct the URL")
    return fs, sorted(files)


def _fetch_batches(batches: Iterator[pa.RecordBatch], url: str) -> Iterator[pa.RecordBatch]:
    fs, _ = fsspec.core.url_to_fs(url)
    for batch in batches:
        for name, place in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            try:
                fs.get_file(name, place)
            except OSError as error:
                yield pa.RecordBatch.from_pydict({"name": [name], "mistake": [str(error)]})
