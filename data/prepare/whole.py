"""Whether all is there that `brickyard prepare` leaves beside shards and indexes."""

from collections.abc import Collection
from pathlib import Path

from data.errors import DataError
from data.manifest import AGAIN, LINEAGE, Manifest, folder_of, verify
from data.remote import TOKENIZER_FILES

TARGETS = "target_counts.parquet"  # how often each token is a target, by domain and split


def verify_all(folder: Path) -> Manifest:
    """As manifest.verify; what lies beside the shards must be there as well.

    Raises:
        DataError: something is missing, or a shard or an index is not what the manifest says.
    """
    manifest = verify(folder)
    patterns = TARGETS, f"{manifest.tokenizer.folder}/*", f"{LINEAGE}/*/*/*.parquet"
    files = {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}
    if gone := missing(manifest, files):
        raise DataError(f"{folder / gone[0]} is missing; {AGAIN}")
    return manifest


def missing(manifest: Manifest, files: Collection[str]) -> list[str]:
    """What of it is not among a dataset's files: files, and folders of which there is none."""
    folders = {file.rpartition("/")[0] for file in files}
    of_splits = [
        f"{LINEAGE}/{folder_of(domain, split)}" for domain, of in manifest.domains.items() for split in of.splits
    ]
    return [
        *(file for file in (*tokenizer_files(manifest), TARGETS) if file not in files),
        *(folder for folder in of_splits if folder not in folders),
    ]


def tokenizer_files(manifest: Manifest) -> list[str]:
    return [f"{manifest.tokenizer.folder}/{name}" for name in TOKENIZER_FILES]
