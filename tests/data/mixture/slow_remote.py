"""A remote that Streaming fetches from as from any other, made of local files, slow, and with a memory of what it gave.

`slow:///folder` is /folder. Only files that are not indexes take time.
"""

import os
import shutil
import threading
import time
from pathlib import Path

from streaming.base.storage import CloudDownloader
from streaming.base.storage import download as download_module

SECONDS = 0.02
LOG = "fetched.log"  # in the remote's parent folder: a line for each shard given, by whichever process asked


class SlowDownloader(CloudDownloader):
    @staticmethod
    def _client_identifier() -> str:
        return "slow"

    def clean_up(self) -> None:
        pass

    def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
        path = Path(remote.removeprefix("slow://"))
        if path.suffix != ".json":
            time.sleep(SECONDS)
            note_of(path).open("a").write(f"{path.parent.name}/{path.name} {threading.current_thread().name}\n")
        partial = Path(f"{local}.{os.getpid()}")
        shutil.copy(path, partial)
        partial.rename(local)


download_module.DOWNLOADER_MAPPINGS["slow"] = SlowDownloader


def note_of(shard: Path) -> Path:
    return shard.parent.parent / LOG


def fetched(root: Path) -> list[str]:
    """`DOMAIN/FILE` of every shard fetched from the domains in ROOT, in order."""
    log = root / LOG
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def fetching_threads(root: Path) -> set[str]:
    """The threads that fetched."""
    return {line.split()[1] for line in (root / LOG).read_text().splitlines()}
