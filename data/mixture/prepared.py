"""Datasets that `brickyard prepare` wrote, as Streaming opens, fetches and caches them."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
import weakref
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from streaming import Stream, StreamingDataset
from streaming.base.dataset import _ShardState
from streaming.base.distributed import get_local_rank
from streaming.base.hashing import get_hash

from data.errors import DataError, Outage, is_outage
from data.mixture.leftovers import (
    alone_on_this_machine,
    number_of_leader,
    probes_closed,
    remove_dead_shared_memory,
)
from data.mixture.spans import ShardSpans, quick_opening

LAST_WORKERS = 8.0  # seconds in which a killed run's dataloader workers have noticed
# Hashes that a shard may be held to when it has been fetched, the fastest first.
HASHES = ("xxh128", "xxh64", "sha1", "sha256")


class PreparedDataset(StreamingDataset):
    """Shards in one or more folders, unshuffled. What goes wrong with them is said in one sentence.

    Args:
        folders: where each stream's shards lie, or are cached.
        remotes: where each stream's shards are fetched from when they are not in its folder; None: from nowhere.
        cache_limit: bytes that the folders may hold together on this machine; the shards that were not used for longest
            are deleted. Only with remotes: without, the folders hold the only copies.

    Raises:
        DataError: another process uses a folder as its cache.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        remotes: Sequence[str] | None,
        *,
        batch_size: int,
        predownload: int | None = None,
        cache_limit: int | None = None,
    ) -> None:
        assert remotes or not cache_limit
        for folder in folders if remotes and get_local_rank() == 0 else ():
            weakref.finalize(self, os.close, take_cache(folder))
        streams = [
            PreparedStream(local=str(folder), remote=remote)
            for folder, remote in zip(folders, remotes or repeat(None, len(folders)), strict=True)
        ]
        with alone_on_this_machine(), probes_closed(), number_of_leader(), quick_opening():
            remove_dead_shared_memory()
            super().__init__(
                streams=streams,
                batch_size=batch_size,
                predownload=predownload,
                cache_limit=cache_limit,
                num_canonical_nodes=1,  # part of Streaming's saved state; no order here depends on it
                shuffle=False,
            )
        assert isinstance(self.spanner, ShardSpans)
        self.spans: ShardSpans = self.spanner
        for stream, first in zip(self.streams, self.shard_offset_per_stream, strict=True):
            stream.validate_hash = next((name for name in HASHES if name in self.shards[first].hashes), None)
        self._checked: dict[int, int] = {}  # shard: the inode of its file that was held to its hash

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Have the shard on disk, fetched, checked and unpacked. A damaged copy is fetched or unpacked again, once.

        Raises:
            DataError: it can't be fetched, or is not what the index says. Outage: just now.
        """
        try:
            super().prepare_shard(shard_id, blocking)
            if self._is_damaged(shard_id):
                if not self._is_copy(shard_id):
                    raise ValueError("it is not what was written (its hash differs)")
                self._drop_damaged(shard_id)
                super().prepare_shard(shard_id)
        except Exception as error:
            self._cache_filelock.release(force=True)  # Streaming holds on to it if it fails at the wrong moment
            raise self._cannot_prepare(shard_id, error) from error

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        shard_id, _ = self.spanner[sample_id]
        if shard_id not in self._checked:
            self.prepare_shard(shard_id)
        return super().get_item(sample_id, retry)

    def _is_damaged(self, shard_id: int) -> bool:
        """Whether the shard's file has another hash than the index says. Read once in each process for each file:
        Streaming checks what it has just fetched, and never what lay there before."""
        shard, stream = self.shards[shard_id], self.streams[self.stream_per_shard[shard_id]]
        raw, _ = shard.file_pairs[0]
        if stream.validate_hash not in raw.hashes:  # of an unpacked file, which Streaming has made itself
            self._checked[shard_id] = 0
            return False
        if self._shard_states[shard_id] != _ShardState.LOCAL:
            return False
        try:
            with Path(stream.local, stream.split, raw.basename).open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if self._checked.get(shard_id) == inode:
                    return False
                content = file.read()
        except FileNotFoundError:  # evicted just now
            return False
        if get_hash(stream.validate_hash, content) != raw.hashes[stream.validate_hash]:
            return True
        self._checked[shard_id] = inode
        return False

    def _is_copy(self, shard_id: int) -> bool:
        """Whether the shard's raw file was fetched, or unpacked from one that stays."""
        _, compressed = self.shards[shard_id].file_pairs[0]
        return compressed is not None or self.streams[self.stream_per_shard[shard_id]].remote is not None

    def _drop_damaged(self, shard_id: int) -> None:
        """Delete a damaged copy, unless another process has done so and fetched it again."""
        shard, stream = self.shards[shard_id], self.streams[self.stream_per_shard[shard_id]]
        with self._cache_filelock:
            if not self._is_damaged(shard_id):
                return
            if stream.remote is not None:
                self._evict_shard(shard_id)
            else:
                Path(stream.local, stream.split, shard.file_pairs[0][0].basename).unlink(missing_ok=True)

    def _cannot_prepare(self, shard_id: int, error: Exception) -> DataError:
        """What to say of it. Nothing half done stays in a cache, where the next run would take it for the shard."""
        shard, stream = self.shards[shard_id], self.streams[self.stream_per_shard[shard_id]]
        raw, compressed = shard.file_pairs[0]
        name = (compressed or raw).basename
        if stream.remote is not None:
            shard.evict()
        self._shard_states[shard_id] = _ShardState.REMOTE  # nobody waits for it any more
        if stream.remote is None:
            path = Path(stream.local) / name
            why = first_line(error) if path.exists() else "the file is gone; restore it, or prepare the dataset again"
            if isinstance(error, ValueError):  # of its content, which `brickyard prepare` does not read again
                why += "; restore it, or delete it and prepare the dataset again"
            return DataError(f"{path} can't be read: {why}")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DataError(f"{stream.local} has no room for {name}: make some, or lower dataset.cache_limit")
        remedy = "; if it is damaged there, delete it and prepare the dataset again"
        why = first_line(error) + (remedy if isinstance(error, ValueError) else "")
        kind = Outage if is_outage(error) else DataError
        return kind(f"{name} can't be fetched from {stream.remote}: {why}")


class PreparedStream(Stream):
    """Unpacks each file under a name of its own: other runs may be unpacking it in the same folder."""

    def _decompress_shard_part(self, zip_info: Any, zip_filename: str, raw_filename: str, compression: Any) -> None:
        own = f"{raw_filename}.{secrets.token_hex(4)}"
        super()._decompress_shard_part(zip_info, zip_filename, own, compression)
        Path(own).replace(raw_filename)


def first_line(error: Any) -> str:
    """The first line of an error's text, or its type's name where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def take_cache(folder: Path) -> int:
    """Take the folder until the file that is returned is closed, or this process and its dataloader workers are gone.

    Streaming looks through its numbered blocks of shared memory for a process with the same folder, but only up to the
    first number that is free.

    Raises:
        DataError: another process has taken it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + LAST_WORKERS
    while True:
        try:
            fcntl.flock(taken, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return taken
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(taken)
                sentence = f"another process is using {folder} as its cache; stop it, or choose another folder"
                raise DataError(sentence) from None
            time.sleep(0.1)
