"""Where a source's records lie, and a fingerprint of what is there: files, a URL, or a table."""

import glob
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from data.errors import DataError
from data.prepare import remote_files
from data.prepare.delta import active_files
from data.prepare.file_hashes import hash_files
from data.prepare.folders import files_below
from data.prepare.recipe import Domain, Source, SourceFormat, content
from data.prepare.session import SPARK_ERRORS, sentence
from data.prepare.stages import fingerprint_of

SPARKS_OWN = re.compile("_SUCCESS|_(common_)?metadata|_(committed|started)_.*")  # beside the files that it writes


@dataclass(frozen=True)
class Input:
    """A source with the local files that it names; `identify` fills in the rest."""

    domain: str
    number: int  # in the domain's list
    source: Source
    files: list[Path]  # sorted; none of a URL or a table
    file_count: int = 0
    bytes: int = 0
    fingerprint: str = ""

    @property
    def key(self) -> str:
        """Where the recipe speaks of it."""
        return f"domains.{self.domain}.sources[{self.number}]"

    @property
    def name(self) -> str:
        """The path, URL or table, as the recipe spells it."""
        return self.source.table or self.source.path

    @property
    def depends_on(self) -> Any:
        """What decides its raw records, as JSON; its domain, and its place in it, do not."""
        means = content(self.source)
        for key in ("path", "table", "max_quarantined"):
            del means[key]
        return [means, self.fingerprint]


def find_inputs(domains: dict[str, Domain]) -> list[Input]:
    """Every source with its local files, in the recipe's order.

    Raises:
        DataError: a source names no file, or one that Spark would pass over.
    """
    return [
        Input(name, number, source, _files(source, f"domains.{name}.sources[{number}].path"))
        for name, domain in domains.items()
        for number, source in enumerate(domain.sources)
    ]


def identify(inputs: list[Input], work: Path, spark: Callable[[], SparkSession]) -> list[Input]:
    """The inputs with their sizes and fingerprints.

    Of local files: over each file's content, and its name, from which origins are taken; not the folder they lie in.
    Of a URL: over each file's address, size and time of modification; nothing is read. Of tables: over the rows of the
    named columns, in any order, so it is read. `spark` is called only where that is needed.

    Raises:
        DataError: something can't be read.
    """
    hashes = hash_files(sorted({path for item in inputs for path in item.files}), work, spark)
    found = []
    for item in inputs:
        if item.files:
            identity = fingerprint_of([[path.name, hashes[path]] for path in item.files])
            found.append((len(item.files), sum(path.stat().st_size for path in item.files), identity))
        elif is_table(item.source):
            found.append(_identify_rows(item, read_table(spark(), item)))
        else:
            found.append(remote_files.identify(spark(), item.source.path, f"{item.key}.path"))
    return [
        replace(item, file_count=files, bytes=size, fingerprint=identity)
        for item, (files, size, identity) in zip(inputs, found, strict=True)
    ]


def is_table(source: Source) -> bool:
    """Is it read by name, or as a whole, with no files of its own to speak of?"""
    return source.table is not None or (source.format is SourceFormat.delta and "://" in source.path)


def read_table(spark: SparkSession, item: Input) -> DataFrame:
    """A catalog's table, or a Delta table at a URL.

    Raises:
        DataError: there is no such table, or nothing that reads Delta.
    """
    source = item.source
    try:
        if source.table is not None:
            return spark.read.table(source.table)
        return spark.read.format("delta").load(source.path)
    except SPARK_ERRORS as error:
        if "DATA_SOURCE_NOT_FOUND" in str(error):
            raise DataError(
                f"{item.key}.format: Spark has no reader of Delta at a URL; add the jars of delta-spark that fit Spark "
                f"{spark.version} by spark.conf (spark.jars or spark.jars.packages)"
            ) from None
        key = "table" if source.table else "path"
        raise DataError(f"{item.key}.{key}: can't read {item.name}: {sentence(error)}") from None


def columns_of(source: Source) -> dict[str, str]:
    """The recipe's key -> the column that it names."""
    keys = ("text_column", "origin_column", "licence_column", "time_column")
    return {key: name for key in keys if (name := getattr(source, key)) is not None}


def check_columns(item: Input, columns: list[str]) -> None:
    """Raises:
    DataError: a column that the source names is not among `columns`.
    """
    for key, name in columns_of(item.source).items():
        if name not in columns:
            raise DataError(f"{item.key}.{key}: {item.name} has no column {name!r}; it has {', '.join(columns)}")


def quoted(name: str) -> str:
    """A column's name for Spark: no sign in it means anything."""
    return "`" + name.replace("`", "``") + "`"


def _identify_rows(item: Input, rows: DataFrame) -> tuple[int, int, str]:
    """A sum of hashes knows every row and no order."""
    check_columns(item, rows.columns)
    named = [F.col(quoted(name)).cast("string") for name in columns_of(item.source).values()]
    hashed = F.sha2(F.to_json(F.array(*named)), 256)
    halves = [F.conv(F.substring(hashed, start, 15), 16, 10).cast("decimal(20,0)") for start in (1, 16)]
    sums = [F.sum(half).cast("string") for half in halves]
    row = rows.agg(F.count("*"), F.sum(F.octet_length(named[0])), *sums).first()
    assert row is not None
    return 0, row[1] or 0, fingerprint_of(list(row))


def _files(source: Source, key: str) -> list[Path]:
    pattern = source.path
    if is_table(source) or "://" in pattern:
        return []
    path = Path(pattern).expanduser()
    if source.format is SourceFormat.delta:
        return active_files(path, key)
    if path.is_dir():
        found = [
            file for file in files_below(path) if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207 - a pattern may be absolute
    files = sorted({file for file in found if file.is_file()})  # of a pattern with ** twice, a file comes twice
    if found != [path]:
        files = [file for file in files if not SPARKS_OWN.fullmatch(file.name)]
    if not files:
        raise DataError(
            f"{key}: there is no file {pattern} (from {Path.cwd()}); correct the path or make the files first"
        )
    for file in files:
        if file.name[0] in "._":
            raise DataError(f"{key}: Spark passes over files whose name begins with '{file.name[0]}'; rename {file}")
        if ":" in file.name:
            raise DataError(f"{key}: Spark can't read files whose name has a ':'; rename {file}")
    return files
