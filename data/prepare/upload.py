"""A dataset's copy at a URL: whoever reads there finds one whole dataset at any moment, also while it is replaced.

A shard's name has a hash of its content, so no other shard ever takes its place. The manifest comes last; what it and
the one before it speak of stays. What has a fixed name (indexes, tokenizer) lies below VERSIONS as well, by the
manifest's fingerprint, for readers of the one manifest while those of the other are brought.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from data.errors import DataError
from data.manifest import FILE, INDEX, Manifest, folder_of
from data.patience import Say, patient
from data.prepare.whole import missing, tokenizer_files
from data.remote import VERSIONS, version_folder
from data.stores import open_store
from data.words import byte_count, plural

UPLOADED_AT_ONCE = 8  # files
PAUSES = (1.0, 5.0)  # seconds between tries, beside those that a store's own library makes
SAID_EVERY = 10.0  # seconds
INVENTORY = f"{VERSIONS}/files.json"  # [bytes, sha256] of files whose names say nothing of their content
# What is nobody else's by its name alone: a shard's has a hash of its content.
OURS = re.compile(r"[^/]+/(train|heldout)/shard\.\d+\.[0-9a-f]+\.mds(\.zstd)?|\.versions/.+")
# What an upload that did not come to its manifest may have left beside.
LIKE_OURS = re.compile(
    r"(lineage/)?[^/]+/(train|heldout)/(index\.json|part-\d+\.parquet)"
    r"|quarantine/part-\d+\.parquet|tokenizer/[^/]+|target_counts\.parquet|data_card\.(md|html)"
)

T = TypeVar("T")
Known = dict[str, list[int | str]]


class RemoteDataset:
    """The copy of a dataset at a URL. Only one job at a time may write to it."""

    def __init__(self, url: str) -> None:
        """Raises:
        DataError: nothing here can speak to such an address.
        """
        self.url = url.rstrip("/")
        try:
            self._store = open_store(self.url)
        except DataError as error:
            raise DataError(f"output: {error}") from None

    def check_replaceable(self) -> None:
        """Raises:
        DataError: what is there is no dataset, or the URL can't be reached.
        """
        there = self._sizes()
        foreign = [key for key in there if not OURS.fullmatch(key) and not LIKE_OURS.fullmatch(key)]
        if FILE not in there and foreign:
            raise DataError(
                f"output: {self.url} holds {plural(len(foreign), 'file')} and no prepared dataset, such as "
                f"{foreign[0]}; choose another URL"
            )

    def manifest(self) -> Manifest | None:
        """What is there says of itself, whole or not."""
        return self._manifest(self._sizes())

    def whole(self) -> Manifest | None:
        """The manifest of what is there, unless there is none or something of what it speaks of is missing."""
        there = self._sizes()
        manifest = self._manifest(there)
        if manifest is None or any(there.get(key) != size for key, size in shards_of(manifest).items()):
            return None
        below = version_folder(manifest)
        of_version = {f"{below}/{key}" for key in (*indexes_of(manifest), *tokenizer_files(manifest))}
        return manifest if of_version <= there.keys() and not missing(manifest, there) else None

    def upload(self, folder: Path, manifest: Manifest, report: Say) -> None:
        """Brings the dataset in `folder` there, as far as it is not there yet.

        Raises:
            DataError: a file can't be brought there, after a few tries.
        """
        there = self._sizes()
        before = self._manifest(there)
        shards = shards_of(manifest)
        named = {key: folder / key for key, size in shards.items() if there.get(key) != size}
        fixed = {key: folder / key for key in files_beside(folder)}
        versions = {
            f"{version_folder(manifest)}/{key}": path
            for key, path in fixed.items()
            if key.startswith(manifest.tokenizer.folder + "/") or key in indexes_of(manifest)
        }
        known: Known = self._read_json(INVENTORY) if INVENTORY in there else {}
        now: Known = {key: [path.stat().st_size, sha256(path)] for key, path in (fixed | versions).items()}
        same = {key for key, of in now.items() if known.get(key) == of and there.get(key) == of[0]}
        new, replaced = ({k: path for k, path in files.items() if k not in same} for files in (versions, fixed))
        files = len(named) + len(new) + len(replaced)
        size = sum(path.stat().st_size for path in (*named.values(), *new.values(), *replaced.values()))
        report(f"uploading {files:,} of {plural(len(shards) + len(now), 'file')}, {byte_count(size)}, to {self.url}")
        progress = patient(report, SAID_EVERY)
        self._put_all(named, progress)
        old = {key: of for key, of in known.items() if key in there and key not in now}  # ours till it is removed
        if new or replaced:  # so that the inventory speaks at no time of what may have been replaced
            self._put_json({key: of for key, of in known.items() if key in same} | old, INVENTORY)
        self._put_all(new, progress)
        self._put_all(replaced, progress)
        self._put_json(now | old, INVENTORY)
        self._put(folder / FILE, FILE)
        self._remove_stale({*shards, *now}, before, old)

    def _remove_stale(self, wanted: Iterable[str], before: Manifest | None, known: Iterable[str]) -> None:
        """Removes what neither this dataset nor the one before it needs: a run may still be reading that. Files whose
        names tell nothing are ours if the inventory has them, as `known`."""
        kept = {*wanted, INVENTORY, FILE, *(shards_of(before) if before else ())}
        old = f"{version_folder(before)}/" if before else None
        there = self._sizes()
        ours = {*known, *(key for key in there if OURS.fullmatch(key))}
        stale = [key for key in there if key in ours - kept and not (old and key.startswith(old))]
        self._patiently("remove what is no longer wanted from", lambda: self._store.remove(stale))

    def _manifest(self, there: dict[str, int]) -> Manifest | None:
        """What it says of itself; None if it says nothing that can be understood."""
        if FILE not in there:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            self._patiently(f"read {FILE} of", lambda: self._store.get(FILE, Path(temporary, FILE)))
            try:
                return Manifest.read(Path(temporary))
            except DataError:
                return None

    def _read_json(self, key: str) -> Known:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "file")
            self._patiently(f"read {key} of", lambda: self._store.get(key, file))
            try:
                return json.loads(file.read_text())
            except ValueError:
                return {}

    def _put_json(self, content: Known, key: str) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary, "file")
            file.write_text(json.dumps(content, sort_keys=True, indent=1) + "\n")
            self._put(file, key)

    def _put_all(self, files: dict[str, Path], progress: Say) -> None:
        """Several at once. The first that fails ends the rest."""
        pool = ThreadPoolExecutor(UPLOADED_AT_ONCE)
        try:
            for number, done in enumerate(as_completed([pool.submit(self._put, files[k], k) for k in files]), start=1):
                done.result()
                progress(f"uploaded {number:,} of {plural(len(files), 'file')}")
        finally:
            pool.shutdown(cancel_futures=True)

    def _put(self, file: Path, key: str) -> None:
        self._patiently(f"bring {key} to", lambda: self._store.put(file, key))

    def _sizes(self) -> dict[str, int]:
        return self._patiently("list the files at", self._store.sizes)

    def _patiently(self, what: str, do: Callable[[], T]) -> T:
        """Tries it again when it fails.

        Raises:
            DataError: it fails every time.
        """
        for pause in PAUSES:
            try:
                return do()
            except Exception:  # each kind of store has its own
                time.sleep(pause)
        try:
            return do()
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"output: can't {what} {self.url}: {reason}; once that is mended, the same command goes on from here"
            ) from None


def shards_of(manifest: Manifest) -> dict[str, int]:
    """The size of every shard, by its path in the dataset."""
    return {
        f"{folder_of(domain, split)}/{shard.file}": shard.bytes
        for domain, of in manifest.domains.items()
        for split, record in of.splits.items()
        for shard in record.shards
    }


def indexes_of(manifest: Manifest) -> set[str]:
    """The path of every index."""
    return {f"{folder_of(domain, split)}/{INDEX}" for domain, of in manifest.domains.items() for split in of.splits}


def files_beside(folder: Path) -> list[str]:
    """The dataset's files but for its manifest, its shards, and what runs that read it here have unpacked of those."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "shard.")))
    return [key for path in found if (key := path.relative_to(folder).as_posix()) != FILE]


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
