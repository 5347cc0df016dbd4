"""A dataset that lies elsewhere: what it says of itself is fetched first; Streaming fetches shards as they are used."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.manifest import FILE, INDEX, Manifest, SplitRecord, file_sizes, has_grown, split_folders, verify_index
from data.tokenizer import ENCODING_FILE, RANKS_FILE, Tokenizer

TOKENIZER_FILES = (RANKS_FILE, ENCODING_FILE)
VERSIONS = ".versions"  # of a remote: what manifests need besides shards, for each in a folder of its own


def version_folder(manifest: Manifest) -> str:
    """Where at a remote `brickyard prepare` puts the manifest's own indexes and tokenizer."""
    return f"{VERSIONS}/{manifest.fingerprint[:16]}"


def fetch(remote: str, folder: Path) -> Manifest:
    """Brings the manifest and the indexes of the dataset at `remote` into `folder`, which caches its shards.

    What was being fetched there when a run was killed is deleted, unless another run is using the folder.

    Args:
        remote: anything that Streaming fetches from: s3://..., gs://..., oci://..., hf://..., a path, and so on.

    Raises:
        DataError: the remote can't be reached or lacks a file, or the folder caches another dataset.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            manifest = fetch_manifest(remote, folder, Path(temporary))
            for split_folder, record in split_folders(folder, manifest):
                if not is_index_of(split_folder, record):
                    place = split_folder.relative_to(folder).as_posix()
                    fetched = fetch_index(remote, place, Path(temporary), manifest, record)
                    split_folder.mkdir(parents=True, exist_ok=True)
                    fetched.replace(split_folder / INDEX)
                entries = verify_index(split_folder, record)
                if os.environ.get("LOCAL_RANK", "0") == "0":
                    drop_half_fetched(split_folder, entries)
    except OSError as error:
        raise DataError(f"{folder} can't be used as a cache: {error.strerror or error}") from None
    return manifest


def fetch_index(remote: str, place: str, temporary: Path, manifest: Manifest, record: SplitRecord) -> Path:
    """A split's index: that at its usual place, or, where that is being replaced, the manifest's own.

    Raises:
        DataError: neither can be fetched and lists the manifest's shards; what is wrong with the usual one.
    """

    def fetched(place: str) -> Path:
        index = download(f"{remote.rstrip('/')}/{place}/{INDEX}", temporary / place / INDEX)
        verify_index(index.parent, record)
        return index

    try:
        return fetched(place)
    except DataError as error:
        with contextlib.suppress(DataError):
            return fetched(f"{version_folder(manifest)}/{place}")
        raise DataError(str(error).replace(str(temporary), remote.rstrip("/"))) from None


def fetch_manifest(remote: str, folder: Path, temporary: Path) -> Manifest:
    """The remote's manifest, also written into `folder`, unless that of another dataset is there."""
    fetched = download(f"{remote.rstrip('/')}/{FILE}", temporary / FILE)
    try:
        manifest = Manifest.read(temporary)
    except DataError as error:
        raise DataError(str(error).replace(str(temporary), remote)) from None
    if (folder / FILE).exists() and not holds_part_of(folder, manifest):
        raise DataError(
            f"{folder} holds shards of another dataset than the one at {remote}; delete it, or name another folder"
        )
    fetched.replace(folder / FILE)
    return manifest


def holds_part_of(folder: Path, manifest: Manifest) -> bool:
    try:
        return has_grown(Manifest.read(folder), manifest)
    except DataError:
        return False


def is_index_of(folder: Path, record: SplitRecord) -> bool:
    """Whether there is the split's index here, and not one from before it grew."""
    try:
        return bool(verify_index(folder, record))
    except DataError:
        return False


def download(remote: str, local: Path) -> Path:
    """Fetches one file.

    Raises:
        DataError: for whatever reason that does not work.
    """
    from streaming.base.storage import CloudDownloader  # imports torch: seconds, only where a remote is named

    try:
        CloudDownloader.direct_download(remote, str(local))
    except Exception as error:  # each kind of remote has its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"can't fetch {remote}: {reason}") from None
    return local


def drop_half_fetched(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Deletes shard files of another size than the index says, and those beside them that are named `SHARD.SOMETHING`
    or `SHARD.SOMETHING.tmp`; none while a run uses the folder as its cache, which may be fetching them just now."""
    whole = {
        file["basename"]: file["bytes"] for entry in entries for file in (entry["raw_data"], entry["zip_data"]) if file
    }
    taken = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as take_cache does for the whole of a run
        for name, size in file_sizes(folder).items():
            is_part = name not in whole and any(name.rsplit(".", number)[0] in whole for number in (1, 2))
            if whole.get(name, size) != size or is_part:
                (folder / name).unlink(missing_ok=True)
    except BlockingIOError:
        pass
    finally:
        os.close(taken)


def fetch_tokenizer(remote: str, folder: Path, manifest: Manifest) -> None:
    """Brings the dataset's tokenizer into `folder`, unless it is there.

    Raises:
        DataError: the remote can't be reached or lacks it, or the folder can't be written to.
    """
    there = folder / manifest.tokenizer.folder
    if all((there / name).exists() for name in TOKENIZER_FILES):
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
            fetched = usual = fetch_tokenizer_at(remote, manifest.tokenizer.folder, Path(temporary, "usual"))
            if not is_tokenizer(usual, manifest):
                own = f"{version_folder(manifest)}/{manifest.tokenizer.folder}"
                with contextlib.suppress(DataError):  # whoever loads the usual one says what is wrong with it
                    fetched = fetch_tokenizer_at(remote, own, Path(temporary, "own"))
            there.mkdir(parents=True, exist_ok=True)
            for name in TOKENIZER_FILES:
                (fetched / name).replace(there / name)
    except OSError as error:
        raise DataError(f"{folder} can't be used as a cache: {error.strerror or error}") from None


def fetch_tokenizer_at(remote: str, place: str, folder: Path) -> Path:
    for name in TOKENIZER_FILES:
        download(f"{remote.rstrip('/')}/{place}/{name}", folder / name)
    return folder


def is_tokenizer(folder: Path, manifest: Manifest) -> bool:
    """Is it the one that the dataset was prepared with?"""
    try:
        return Tokenizer.load(folder).fingerprint == manifest.tokenizer.fingerprint
    except DataError:
        return False
