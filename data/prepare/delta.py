"""Which Parquet files a Delta table on disk is made of now.

Its log is read by delta-rs, its files by Spark itself: delta-spark has no release for our Spark.
"""

from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from data.errors import DataError

# What changes how a table's Parquet files are to be read (Delta's protocol, "Table Features").
NOT_PLAIN = ("deletionVectors", "columnMapping")


def active_files(table: Path, key: str) -> list[Path]:
    """The files of the newest version, sorted; `key` is where the recipe names the table.

    Raises:
        DataError: there is no Delta table, or its rows are not just those in its files.
    """
    from deltalake import DeltaTable  # seconds, so only where one is read
    from deltalake.exceptions import DeltaError

    try:
        found = DeltaTable(str(table.absolute()))
        features = found.protocol().reader_features or []
        mapped = found.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        paths = pa.table(found.get_add_actions()).column("path").to_pylist()
    except (DeltaError, OSError) as error:
        raise DataError(f"{key}: {table} can't be read as a Delta table: {str(error).splitlines()[0]}") from None
    if used := [feature for feature in NOT_PLAIN if feature in features or (mapped and feature == "columnMapping")]:
        raise DataError(
            f"{key}: {table} uses {' and '.join(used)}, so its rows are not just those in its files; "
            "rewrite it without, or write it out as Parquet"
        )
    # The log spells a path as a URL does; delta-rs has decoded it, or has written it so.
    return sorted(table / (path if (table / path).exists() else unquote(path)) for path in paths)
