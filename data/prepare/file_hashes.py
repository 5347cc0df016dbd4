"""Content hashes of local files, each read once: by the driver if they are few, by Spark's tasks if they are not.

A cache beside the output holds the hashes by path, size and both of the file system's times (of modification, and of
the last change of any kind, which no program can set). So a file counts as unchanged only if it was not written to.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession

from data.errors import DataError

CACHE = "hashes.json"
DRIVER_BYTES = 2 << 30  # that are hashed without starting Spark: two seconds or less
SETTLED_SECONDS = 2  # a file written later than so long before it was hashed may change again within one tick

State = list[int]  # size, modified, changed (nanoseconds)


def hash_files(files: list[Path], work: Path, spark: Callable[[], SparkSession]) -> dict[Path, str]:
    """The sha256 of every file's content; `spark` is called only if there is much to read.

    Raises:
        DataError: a file can't be read.
    """
    now = time.time_ns()
    states = {path: _state(path) for path in files}
    cached = _read(work / CACHE)
    known = {path: cached[str(path)][1] for path in files if cached.get(str(path), [None])[0] == states[path]}
    new = [path for path in files if path not in known]
    small = sum(states[path][0] for path in new) <= DRIVER_BYTES
    known.update(_hash(path) for path in new) if small else known.update(_hash_in_tasks(new, spark()))
    settled = {str(path): [states[path], known[path]] for path in files if _is_settled(states[path], now)}
    if settled != cached:
        work.mkdir(parents=True, exist_ok=True)
        unfinished = work / f"{CACHE}.new"
        unfinished.write_text(json.dumps(settled), encoding="utf-8")
        unfinished.replace(work / CACHE)
    return known


def _hash(path: Path) -> tuple[Path, str]:
    try:
        with path.open("rb") as file:
            return path, hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"can't read {path} ({error.strerror})") from None


def _hash_in_tasks(files: list[Path], spark: SparkSession) -> Iterable[tuple[Path, str]]:
    """A task hashes a file at a time, in pieces; its mistakes come back as values, since an exception comes with a
    traceback of Spark's.
    """
    paths = spark.createDataFrame(pa.table({"path": [str(path) for path in files]}))
    hashed = paths.repartition(min(len(files), 10_000), "path").mapInArrow(_hash_batches, "path string, hash string")
    rows = hashed.collect()
    for row in rows:
        if row.hash.startswith("can't"):
            raise DataError(row.hash)
    return [(Path(row.path), row.hash) for row in rows]


def _hash_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for path in batch.column("path").to_pylist():
            try:
                said = _hash(Path(path))[1]
            except DataError as error:
                said = str(error)
            yield pa.RecordBatch.from_pydict({"path": [path], "hash": [said]})


def _state(path: Path) -> State:
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"can't read {path} ({error.strerror})") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _is_settled(state: State, now: int) -> bool:
    return max(state[1:]) < now - SETTLED_SECONDS * 1_000_000_000


def _read(path: Path) -> dict[str, tuple[State, str]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
