"""What a prepared dataset says of itself: counts, hashes, lineage, and one fingerprint over all of it.

OUTPUT/manifest.json is written last, so a folder that has one is whole. Reading code needs nothing but this file.
"""

import dataclasses
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from data.errors import DataError

VERSION = 3
FILE = "manifest.json"
INDEX = "index.json"  # Streaming's, one in each split's folder
LINEAGE = "lineage"  # the folder that says which documents samples are made of: data/lineage.py
SPLITS = ("train", "heldout")
AGAIN = "restore it or prepare the dataset again"


@dataclass(frozen=True)
class ShardRecord:
    """One shard file, in the order in which Streaming numbers its samples."""

    file: str  # name inside the split's folder, as it lies on disk (compressed, if the dataset is)
    samples: int
    bytes: int  # size on disk
    hashes: dict[str, str]  # algorithm -> hex digest of the file on disk


@dataclass(frozen=True)
class SplitRecord:
    """One domain's train or held-out samples.

    `samples * max_seq_len == tokens + padding_tokens`; padding lies only at samples' ends: at that of the last one if
    documents are concatenated.
    """

    documents: int
    tokens: int  # end-of-text included, padding not
    padding_tokens: int
    samples: int
    shards: list[ShardRecord]


@dataclass(frozen=True)
class SourceRecord:
    """What one `sources` entry of the recipe gave."""

    path: str  # or URL or table, as the recipe spells it; no part of the fingerprint
    format: str
    files: int
    bytes: int
    documents: int  # read, before anything was dropped
    # documents == kept + duplicates + sum(dropped.values())
    kept: int = 0  # documents, the held-out ones among them
    kept_bytes: int = 0  # of their text, UTF-8
    tokens: int = 0  # end-of-text included, padding not
    dropped: dict[str, int] = field(default_factory=dict)  # as the domain's, without what it has none of
    duplicates: int = 0  # exact copies of a document of this source or of one before it
    languages: dict[str, int] = field(default_factory=dict)  # as the domain's
    lengths: dict[str, int] = field(default_factory=dict)  # as the domain's


@dataclass(frozen=True)
class ExampleRecord:
    """A few words of a document that a cleaning step dropped or changed; addresses are masked."""

    why: str  # "edited", or the rule that dropped it with the document's number
    before: str
    after: str | None  # None: dropped


@dataclass(frozen=True)
class CleaningRecord:
    """One cleaning step: `documents_in == documents_out + sum(dropped.values())`."""

    step: str  # as the recipe names it; the second of a name is NAME_2
    documents_in: int
    documents_out: int
    edited: int  # documents of which it changed more than white space at the ends
    dropped: dict[str, int]  # rule -> documents
    examples: list[ExampleRecord]  # a few drops and a few edits, chosen by hash


@dataclass(frozen=True)
class DeduplicationRecord:
    """One step on the documents that are left when exact copies are gone: `documents_in == documents_out + dropped`."""

    step: str  # near_duplicate, repeated_lines or contaminated
    documents_in: int
    documents_out: int
    dropped: int
    edited: int  # documents that lost a part of their text and stayed
    counts: dict[
        str, int
    ]  # what else there is to count: the lines removed; by benchmark, the documents that overlap it
    examples: list[str]  # a few sentences, each with the origin of a document and what became of it


@dataclass(frozen=True)
class DomainRecord:
    """One domain: what was read, what was dropped and why, what was kept."""

    documents_read: int
    dropped: dict[str, int]  # what was wrong with the record, or the step that dropped it -> documents
    duplicates: int  # exact copies of a document of this domain or of one before it in the recipe
    bytes: int  # UTF-8 bytes of the documents kept
    sources: list[SourceRecord]
    origins: dict[str, int]  # the most frequent origins (up to the first '/'; of a URL, the host) -> documents kept
    splits: dict[str, SplitRecord]
    # Cross-entropy in nats per token of the held-out targets under the train split's unigram model (add-one smoothing
    # over the whole vocabulary). Targets are what a model is trained on: not a sample's first token, not padding.
    unigram_loss: float | None  # None: the recipe holds nothing out
    cleaning: list[CleaningRecord] = field(default_factory=list)  # in the order of the recipe
    # ISO code -> documents that cleaning kept, duplicates among them; empty without the step `language`.
    languages: dict[str, int] = field(default_factory=dict)
    deduplication: list[DeduplicationRecord] = field(default_factory=list)  # in the order in which they were taken
    licences: dict[str, int] = field(default_factory=dict)  # the most frequent ones -> documents kept
    # Documents kept by their tokens: those under "256" have from 256 to 511, end-of-text included.
    lengths: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerRecord:
    """The tokenizer that the tokens mean something in; its files lie in `folder`, relative to the dataset."""

    name: str
    vocab_size: int
    end_of_text: int
    fingerprint: str
    folder: str


@dataclass(frozen=True)
class AdditionRecord:
    """New documents that were appended to a dataset: its shards before that are the first ones of each split."""

    dataset_fingerprint: str  # of the dataset before
    recipe_fingerprint: str  # of the recipe that the new documents came by
    shards: dict[str, dict[str, int]]  # domain -> split -> how many it had before


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json."""

    max_seq_len: int
    token_dtype: str  # uint16 or uint32
    seed: int
    heldout_fraction: float
    tokenizer: TokenizerRecord
    domains: dict[str, DomainRecord]  # in the recipe's order
    recipe_fingerprint: str
    input_fingerprints: dict[str, str]  # domain -> sha256 over its input files' contents
    # What was asked for, every default written out; without what changes no data (output, keep_work, spark).
    recipe: dict[str, Any] = field(default_factory=dict)
    additions: list[AdditionRecord] = field(default_factory=list)  # in the order in which they were made
    version: int = VERSION

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the content: equal for equal data, wherever and whenever it was prepared."""
        content = _plain(self)
        for domain in content["domains"].values():
            for source in domain["sources"]:
                del source["path"]
        content["recipe"] = _without_paths(content["recipe"])
        # The order of domains is content (it decides which copy of a duplicate stays), and sort_keys would hide it.
        content["domain_order"] = list(self.domains)
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads FOLDER/manifest.json.

        Raises:
            DataError: it is missing, damaged, of another version, or was edited by hand.
        """
        path = Path(folder) / FILE
        content = _read_json(path)
        if content.get("version") != VERSION:
            raise DataError(
                f"{path} has version {content.get('version')!r}, this Brickyard reads version {VERSION}; "
                "prepare the dataset again with `brickyard prepare`"
            )
        recorded = content.pop("fingerprint", None)
        try:
            manifest = _build(cls, content, "")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is damaged ({error}); prepare the dataset again with `brickyard prepare`"
            ) from None
        if manifest.fingerprint != recorded:
            raise DataError(f"{path} does not match its own fingerprint; restore it or prepare the dataset again")
        return manifest

    def write(self, folder: Path) -> None:
        """Writes FOLDER/manifest.json."""
        content = {**_plain(self), "fingerprint": self.fingerprint}
        (Path(folder) / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def has_grown(before: Manifest, now: Manifest) -> bool:
    """Whether one dataset is the other with shards after those of its splits, or with more domains: then every sample
    that it held is in its old place."""
    if (before.max_seq_len, before.token_dtype, before.tokenizer) != (now.max_seq_len, now.token_dtype, now.tokenizer):
        return False
    for domain, record in before.domains.items():
        for split, old in record.splits.items():
            new = now.domains[domain].splits.get(split) if domain in now.domains else None
            if new is None or new.shards[: len(old.shards)] != old.shards:
                return False
    return True


def folder_of(domain: str, split: str) -> str:
    """Where a split's index.json and shards lie, relative to the dataset's folder."""
    assert split in SPLITS, split
    return f"{domain}/{split}"


def verify(folder: Path) -> Manifest:
    """Reads the manifest and checks that every index and every shard's size agree with it; reads no shard.

    Raises:
        DataError: the manifest can't be read, or a shard is missing, truncated, changed in size or unknown to it.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    for split_folder, record in split_folders(folder, manifest):
        verify_index(split_folder, record)
        sizes = file_sizes(split_folder)
        for shard in record.shards:
            path = split_folder / shard.file
            if shard.file not in sizes:
                raise DataError(f"shard {path} is missing; {AGAIN}")
            if sizes[shard.file] != shard.bytes:
                raise DataError(f"shard {path} has {sizes[shard.file]} bytes, the manifest says {shard.bytes}; {AGAIN}")
    return manifest


def split_folders(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, SplitRecord]]:
    """The folder of every split of every domain, and what the manifest says of it."""
    for domain, record in manifest.domains.items():
        for split, split_record in record.splits.items():
            yield folder / folder_of(domain, split), split_record


def verify_index(folder: Path, record: SplitRecord) -> list[dict[str, Any]]:
    """The entries of a split's index.json.

    Raises:
        DataError: they are not the manifest's shards.
    """
    index = _read_json(folder / INDEX).get("shards")
    listed = [_shard_of_index(entry) for entry in index] if isinstance(index, list) else None
    if listed != record.shards:
        raise DataError(f"{folder / INDEX} lists other shards than the dataset's manifest; {AGAIN}")
    return typing.cast(list[dict[str, Any]], index)


def file_sizes(folder: Path) -> dict[str, int]:
    """Every plain file in a folder, and its size (one walk: there may be hundreds of thousands)."""
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _shard_of_index(entry: Any) -> ShardRecord | None:
    try:
        return shard_record(entry)
    except (KeyError, TypeError, AttributeError):
        return None


def shard_record(entry: dict[str, Any]) -> ShardRecord:
    """A shard's record from its entry in Streaming's index.json."""
    data = entry["zip_data"] or entry["raw_data"]
    return ShardRecord(data["basename"], entry["samples"], data["bytes"], data["hashes"])


def canonical_json(content: Any) -> str:
    """The one spelling of a JSON value that fingerprints are taken of."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"can't read {path} ({error.strerror}); is this a prepared dataset? make one with `brickyard prepare`"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is no valid JSON ({error}); prepare the dataset again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (not a JSON object); prepare the dataset again")
    return content


def _build(kind: Any, value: Any, where: str) -> Any:
    """A value of `kind` (dataclass, list, dict, optional or plain type) from parsed JSON.

    Raises:
        KeyError, TypeError: the JSON has another shape.
    """
    if kind is Any:
        return value
    origin, arguments, hints = _shape(kind)
    if origin is types.UnionType:
        return None if value is None else _build(arguments[0], value, where)
    if origin is list:
        return [_build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_typed(value, list, where))]
    if origin is dict:
        return {key: _build(arguments[1], item, f"{where}.{key}") for key, item in _typed(value, dict, where).items()}
    if hints is not None:
        if _typed(value, dict, where).keys() != hints.keys():
            raise KeyError(f"{where or 'top level'} has keys {sorted(value)}")
        return kind(**{name: _build(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    return _typed(value, kind, where)


@cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any] | None]:
    """A type's origin, its arguments and, of a dataclass, its fields."""
    hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else None
    return typing.get_origin(kind), typing.get_args(kind), hints


def _without_paths(recipe: Any) -> Any:
    """A recipe's JSON without where things lie: fingerprints of their content are in the manifest by themselves."""
    if isinstance(recipe, dict):
        return {key: _without_paths(value) for key, value in recipe.items() if key != "path"}
    return [_without_paths(item) for item in recipe] if isinstance(recipe, list) else recipe


def _typed(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError(f"{where.lstrip('.') or 'top level'} is {type(value).__name__}, not {kind.__name__}")
    return value


def _plain(value: Any) -> Any:
    """The JSON of dataclasses, lists and dicts; like dataclasses.asdict, in a tenth of its time."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    kind: Any = type(value)
    hints = _shape(kind)[2]
    return value if hints is None else {name: _plain(getattr(value, name)) for name in hints}
