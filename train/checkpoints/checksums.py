"""What the files of a checkpoint were when it was written, so that damage is found before it is trained on.

xxHash (XXH3, 128 bits) finds what goes wrong by accident, at the speed of memory. Nothing here guards against intent:
that is what `SafeReader` is for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

FILE = "checksums.json"  # written last: a checkpoint without it is not whole
VERSION = 1
TENSORS = ".distcp"  # the ending of the large files
BLOCK = 1 << 22  # bytes read at once


@dataclass(frozen=True)
class Checksum:
    """Of one file."""

    bytes: int
    xxh3_128: str


def checksum_of(file: Path) -> Checksum:
    """Reads the file."""
    digest, size = xxhash.xxh3_128(), 0
    with file.open("rb", buffering=0) as content:
        while block := content.read(BLOCK):
            digest.update(block)
            size += len(block)
    return Checksum(size, digest.hexdigest())


def write_checksums(checkpoint: Path, known: Mapping[str, Checksum]) -> None:
    """Those that are known, and of all other files in the folder those that they have."""
    files = (path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file())
    sums = {name: known.get(name) or checksum_of(checkpoint / name) for name in sorted(files) if name != FILE}
    content = {"version": VERSION, "files": {name: asdict(checksum) for name, checksum in sums.items()}}
    (checkpoint / FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_checksums(checkpoint: Path) -> dict[str, Checksum]:
    """What `write_checksums` wrote.

    Raises:
        ValueError: it is not there, or damaged, with a sentence that says so.
    """
    path = checkpoint / FILE
    try:
        content = json.loads(path.read_text())
        if content["version"] != VERSION:
            raise ValueError(f"{path} has version {content['version']}, this Brickyard reads {VERSION}")
        return {name: Checksum(**entry) for name, entry in content["files"].items()}
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is damaged") from None


def quick_damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, as far as can be told without reading its tensors; None: nothing."""
    try:
        sums = read_checksums(checkpoint)
    except ValueError as error:
        return str(error)
    return next((found for name in sums if (found := file_damage(checkpoint, name, sums[name], quick=True))), None)


def share_of(sums: Mapping[str, Checksum], rank: int, ranks: int) -> list[str]:
    """The files that one of several ranks looks after; all have about as many bytes."""
    return sorted(sums, key=lambda name: sums[name].bytes, reverse=True)[rank::ranks]


def damages(checkpoint: Path, sums: Mapping[str, Checksum], names: Iterable[str]) -> list[str]:
    """What is wrong with these files, read whole."""
    return [found for name in names if (found := file_damage(checkpoint, name, sums[name]))]


def file_damage(checkpoint: Path, name: str, known: Checksum, quick: bool = False) -> str | None:
    """`quick` leaves out what is in the large files."""
    file = checkpoint / name
    try:
        size = file.stat().st_size
        if size != known.bytes:
            return f"{file} has {size:,} bytes, written were {known.bytes:,}"
        if not (quick and name.endswith(TENSORS)) and checksum_of(file) != known:
            return f"{file} is not what was written (its checksum differs)"
    except OSError as error:
        return f"{file} can't be read ({error.strerror})"
    return None
