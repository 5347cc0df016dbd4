"""The hashes of a dataset's own samples, read straight from its MDS shards."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import zstd
from numpy.typing import NDArray

from data.errors import DataError
from data.manifest import Manifest, folder_of, has_grown, verify
from data.mixture.order import SHARDS_PER_GROUP
from data.remote import download
from train.audit.records import token_hashes
from train.errors import RecipeError

OFFSET = np.dtype("<u4")


class TrainingShards:
    """The training rows of the dataset that `manifest` describes.

    Args:
        folder: where it lies, or is cached.
        remote: where the shards are that the folder lacks; None: it has them all.

    Raises:
        RecipeError: another dataset lies there.
        DataError: the dataset is not whole.
    """

    def __init__(self, folder: Path, remote: str | None, manifest: Manifest) -> None:
        found = verify(folder) if remote is None else Manifest.read(folder)
        if not has_grown(manifest, found):
            raise RecipeError(
                f"the dataset in {folder} is not the one that the run was trained on; "
                "name that one with --dataset, or leave the tokens out with --no-tokens"
            )
        self.folder = folder
        self.remote = remote
        self.manifest = manifest
        self._temporary = tempfile.TemporaryDirectory(prefix="brickyard-audit-")
        self._fetched: OrderedDict[str, Path] = OrderedDict()

    def hashes(self, domain: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The `token_hashes` of these rows of a domain, shard by shard.

        Raises:
            DataError: a shard is damaged, or can't be fetched.
        """
        shards = self.manifest.domains[domain].splits["train"].shards
        first_row = np.cumsum([0, *(shard.samples for shard in shards)])
        number = np.searchsorted(first_row, rows, side="right") - 1
        hashes = np.empty(len(rows), np.uint64)
        for shard in np.unique(number):
            chosen = number == shard
            path = self._path_of(f"{folder_of(domain, 'train')}/{shards[shard].file}", shards[shard].bytes)
            there = rows[chosen] - first_row[shard]
            hashes[chosen] = token_hashes(
                shard_samples(path, there, self.manifest.token_dtype, self.manifest.max_seq_len)
            )
        return hashes

    def _path_of(self, name: str, size: int) -> Path:
        """Where a shard lies. The folder may be the cache of a run that is going: nothing is changed in it."""
        path = self.folder / name
        if self.remote is None or (path.is_file() and path.stat().st_size == size):
            return path
        if name not in self._fetched:
            path = Path(self._temporary.name, name)
            self._fetched[name] = download(f"{self.remote.rstrip('/')}/{name}", path)
        self._fetched.move_to_end(name)
        if len(self._fetched) > 2 * SHARDS_PER_GROUP * len(self.manifest.domains):  # those in use at once
            self._fetched.popitem(last=False)[1].unlink()
        return self._fetched[name]


def shard_samples(path: Path, rows: NDArray[np.int64], dtype: str, length: int) -> NDArray[np.integer]:
    """[rows, length] tokens of some rows of an MDS shard. It holds the number of its samples, the offset of each and of
    the end, a description of their format, and the samples, at whose ends are their tokens.

    Raises:
        DataError: it is damaged.
    """
    try:
        content = shard_bytes(path)
        count = int(content[: OFFSET.itemsize].view(OFFSET)[0])
        offsets = content[OFFSET.itemsize :][: OFFSET.itemsize * (count + 1)].view(OFFSET)
        size = length * np.dtype(dtype).itemsize
        samples = [content[end - size : end] for end in offsets[1:][rows].tolist()]
        return np.concatenate(samples).view(dtype).reshape(len(rows), length)
    except (IndexError, ValueError, zstd.Error):
        raise DataError(f"shard {path} is damaged; restore it or prepare the dataset again") from None


def shard_bytes(path: Path) -> NDArray[np.uint8]:
    """A shard as it was before compression; where it was not compressed, only what is used is read."""
    if path.suffix == ".zstd":
        return np.frombuffer(zstd.decompress(path.read_bytes()), np.uint8)
    return np.memmap(path, np.uint8, mode="r")
