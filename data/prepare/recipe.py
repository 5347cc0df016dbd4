"""The typed schema of a preparation recipe. Plain dataclasses: launch/ reads YAML into them and calls `problems`."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from data.prepare.cleaning import steps
from data.prepare.duplicates.choices import Decontaminate, Deduplicate

MAX_SHARD_MB = 2048  # MDS keeps offsets in 32 bits; what tells documents apart takes less than their tokens
MAX_DOCUMENT_MB = 1024  # a column of a batch has at most 2 GB, and some tasks hold a text twice in one
TAKEN = ("tokenizer", "quarantine", "lineage")  # folders of a dataset that are no domain's
MASTERS = ("local", "spark://", "yarn", "k8s://", "sc://")
MIN_VOCAB_SIZE = 257  # every byte, and the end of text


class Packing(Enum):
    """How documents fill samples."""

    concatenate = "concatenate"  # one after the other, cut where a sample ends: no padding
    best_fit = "best_fit"  # none that fits into a sample is cut; some padding


class SourceFormat(Enum):
    """How what lies at a source's path is read; a suffix .gz, .bz2 or .zst of jsonl, text or csv is uncompressed."""

    jsonl = "jsonl"  # one JSON object a line
    parquet = "parquet"
    text = "text"  # one document a file
    csv = "csv"  # with a header; quoted fields may hold line ends
    delta = "delta"  # a Delta table's newest version; at a URL, its jars come by spark.conf


class TokenizerKind(Enum):
    """Where the encoding comes from."""

    cl100k_base = "cl100k_base"  # through tiktoken
    ranks = "ranks"  # from a tokenizer folder or a ranks file at `path`
    train = "train"  # trained on the kept train documents


@dataclass
class Source:
    """Files of one format, or a table."""

    path: str = ""  # a file, a folder or a glob, relative to the current directory, or a URL
    table: str | None = None  # instead of a path: a table of Spark's catalogs, such as catalog.schema.table
    format: SourceFormat = SourceFormat.jsonl  # of the path
    text_column: str = "text"
    origin_column: str | None = None  # without it the file's name is the origin
    licence_column: str | None = None
    time_column: str | None = None
    sample: float = 1.0  # the fraction of records that is read: those of the smallest hashes
    # The most records that are read, those of the smallest hashes; copies of the last come along.
    limit: int | None = None
    # A longer document is quarantined. A task holds a document several times over; a book has 1 MB, a dump has no end.
    max_document_mb: int = 64
    max_quarantined: float = 0.01  # of its records, and of its files, that may be unreadable before the job stops

    def problems(self) -> Iterator[tuple[str, str]]:
        if bool(self.path) == (self.table is not None):
            yield "path", "expected a file, a folder, a glob or a URL, or else a table"
        if self.table is not None and not self.table:
            yield "table", "expected the name of a table"
        if self.table is not None and self.format is not SourceFormat.jsonl:
            yield "format", "a table has its own; remove this key"
        for key in ("text_column", "origin_column", "licence_column", "time_column"):
            name = getattr(self, key)
            if name == "":
                yield key, "expected a column's name"
            if self.format is SourceFormat.text and name not in (None, "", "text"):
                yield key, "a text file has no columns; remove this key"
        if not 0 < self.sample <= 1:
            yield "sample", "expected a fraction above 0 and at most 1"
        if self.limit is not None and self.limit < 1:
            yield "limit", "expected at least 1"
        if not 1 <= self.max_document_mb <= MAX_DOCUMENT_MB:
            yield "max_document_mb", f"expected a number from 1 to {MAX_DOCUMENT_MB}"
        if not 0 <= self.max_quarantined <= 1:
            yield "max_quarantined", "expected a fraction from 0 to 1"


@dataclass
class Domain:
    """A named kind of text."""

    sources: list[Source] = field(default_factory=list)
    cleaning: list[Any] | None = field(default=None, metadata={"named": steps.STEPS})  # null: the recipe's own list

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.sources:
            yield "sources", "expected at least one source"
        yield from ((f"cleaning{key}", sentence) for key, sentence in steps.problems(self.cleaning or []))


@dataclass
class TokenizerChoice:
    """The encoding of the dataset."""

    kind: TokenizerKind = TokenizerKind.cl100k_base
    path: str | None = None  # kind ranks
    vocab_size: int | None = None  # kind train: exact, <|endoftext|> included
    train_on_mb: int = 64  # kind train: about so much text is sampled, evenly over the documents

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.kind is TokenizerKind.ranks and not self.path:
            yield "path", "kind ranks needs the path of a ranks file or of a tokenizer folder"
        if self.kind is TokenizerKind.ranks and self.path and not Path(self.path).exists():
            yield "path", f"expected an existing ranks file or tokenizer folder; there is no {self.path}"
        if self.kind is not TokenizerKind.ranks and self.path:
            yield "path", f"kind {self.kind.value} takes no path"
        if self.kind is TokenizerKind.train and (self.vocab_size or 0) < MIN_VOCAB_SIZE:
            yield "vocab_size", f"kind train needs a number of at least {MIN_VOCAB_SIZE}"
        if self.kind is not TokenizerKind.train and self.vocab_size is not None:
            yield "vocab_size", f"kind {self.kind.value} brings its own vocabulary; remove this key"
        if self.train_on_mb < 1:
            yield "train_on_mb", "expected at least 1"


@dataclass
class SparkChoice:
    """How Spark runs. Nothing here changes the data."""

    # Or a cluster's (spark://HOST:PORT, yarn, k8s://...), or a Spark Connect server (sc://HOST:PORT): all machines must
    # see output.
    master: str = "local[*]"
    driver_memory: str = "2g"
    conf: dict[str, str] = field(default_factory=dict)  # any further Spark settings

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.master.startswith(MASTERS):
            yield "master", "expected local[N], local[*], spark://HOST:PORT, yarn, k8s://HOST:PORT or sc://HOST:PORT"


@dataclass
class PrepareRecipe:
    """Everything `brickyard prepare` needs to turn text into a dataset."""

    output: str = ""  # a local folder, or a URL: s3://..., gs://..., whatever fsspec knows
    local: str | None = None  # where an output at a URL is made first; null: datasets/NAME, by the URL's last part
    domains: dict[str, Domain] = field(default_factory=dict)  # the first of two domains keeps a document both have
    max_seq_len: int = 2048
    packing: Packing = Packing.concatenate
    seed: int = 17  # of the order of documents; the held-out split does not depend on it
    heldout_fraction: float = 0.005  # of the documents, by hash; 0 holds nothing out
    # Steps in their order, each a name or {name: {option: value}}: docs/prepare.md has all of them.
    cleaning: list[Any] = field(default_factory=lambda: list(steps.DEFAULT), metadata={"named": steps.STEPS})
    deduplicate: Deduplicate = field(default_factory=Deduplicate)  # docs/deduplication.md
    decontaminate: Decontaminate | None = None
    tokenizer: TokenizerChoice = field(default_factory=TokenizerChoice)
    shard_size_mb: float = 64.0  # of tokens, uncompressed
    compression: str | None = None  # such as zstd or zstd:7
    hashes: list[str] = field(default_factory=lambda: ["sha1", "xxh64"])
    append: bool = False  # to the dataset in output, if there is one: its shards stay as they are (docs/append.md)
    # .NAME.work beside the output, and `local`, so that the next run does only what has changed
    keep_work: bool = True
    spark: SparkChoice = field(default_factory=SparkChoice)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Pairs of a key, relative to this node, and a sentence on what was expected there."""
        if not self.output.partition("://")[2 if self.is_remote else 0].strip("/"):
            yield "output", "expected a local folder or a URL"
        if self.local is not None and (not self.local or "://" in self.local):
            yield "local", "expected a local folder"
        if self.local is not None and not self.is_remote:
            yield "local", "the output is a local folder itself; remove this key"
        if not self.domains:
            yield "domains", "expected at least one domain"
        for name in self.domains:
            if not _is_folder_name(name):
                yield (
                    f"domains.{name}",
                    f"expected a name of letters, digits, '-' and '_' other than {', '.join(TAKEN)}",
                )
        if self.max_seq_len < 2:
            yield "max_seq_len", "expected at least 2"
        if not 0 <= self.heldout_fraction < 1:
            yield "heldout_fraction", "expected a number from 0 to below 1"
        if not 0 < self.shard_size_mb <= MAX_SHARD_MB:
            yield "shard_size_mb", f"expected a number above 0 and at most {MAX_SHARD_MB}"
        if self.compression is not None and not re.fullmatch(r"zstd(:([1-9]|1\d|2[0-2]))?", self.compression):
            yield "compression", "expected zstd, zstd:LEVEL with a level from 1 to 22, or null"
        if len(set(self.hashes)) != len(self.hashes) or not set(self.hashes) <= {"sha1", "sha256", "xxh64", "xxh128"}:
            yield "hashes", "expected distinct names out of sha1, sha256, xxh64, xxh128"
        yield from ((f"cleaning{key}", sentence) for key, sentence in steps.problems(self.cleaning))

    @property
    def is_remote(self) -> bool:
        return "://" in self.output

    @property
    def folder(self) -> Path:
        """Where the dataset is made."""
        return Path(self.local or f"datasets/{self.name}") if self.is_remote else Path(self.output)

    @property
    def name(self) -> str:
        """What the dataset is called."""
        return self.output.rstrip("/").rpartition("/")[2] if self.is_remote else self.folder.resolve().name

    def cleaning_of(self, domain: str) -> list[Any]:
        """The list of steps that the domain's documents go through."""
        own = self.domains[domain].cleaning
        return self.cleaning if own is None else own


def content(node: Any) -> Any:
    """A recipe's node as JSON, for fingerprints."""

    def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value.value if isinstance(value, Enum) else value for key, value in pairs}

    return dataclasses.asdict(node, dict_factory=plain)


def resolved(recipe: PrepareRecipe) -> dict[str, Any]:
    """The recipe as JSON for readers of the dataset: every default written out, each domain with its own cleaning.

    Without where the output lies and how Spark ran, which change no data and may hold secrets.
    """
    means = content(recipe)
    for key in ("output", "local", "keep_work", "spark", "cleaning"):
        del means[key]
    for name, domain in means["domains"].items():
        domain["cleaning"] = [{step: options} for step, options in steps.resolved(recipe.cleaning_of(name))]
        for source in domain["sources"]:
            source["path"] = without_password(source["path"])
    return json.loads(json.dumps(means))


def without_password(path: str) -> str:
    """The path or URL, without a name and a password in it."""
    return re.sub(r"://[^/@]*@", "://", path)


def _is_folder_name(name: str) -> bool:
    return (
        name not in TAKEN and name[:1].isalnum() and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    )
