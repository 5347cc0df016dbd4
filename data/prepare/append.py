"""New documents join a dataset whose shards stay as they are, in their order.

The recipe's sources are read whole. What the dataset's lineage knows of their documents comes before all others, so
only what is like none of it is new; that is tokenized with the dataset's own tokenizer and packed by itself into
shards after the old ones. In the new folder the old shards are hard links to the same files.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from data.errors import DataError
from data.manifest import (
    AGAIN,
    FILE,
    LINEAGE,
    SPLITS,
    AdditionRecord,
    Manifest,
    SplitRecord,
    folder_of,
    verify_index,
)
from data.prepare.duplicates.documents import is_new
from data.prepare.places import Places
from data.prepare.recipe import PrepareRecipe, TokenizerKind
from data.prepare.session import spark_path
from data.prepare.shards import write_index
from data.prepare.whole import TARGETS, verify_all
from data.tokenizer import Tokenizer

ANEW = "prepare a dataset anew in another folder"

Splits = dict[str, dict[str, SplitRecord]]  # domain -> split -> record
Targets = dict[tuple[str, str], np.ndarray]  # (domain, split) -> counts of each token, [vocab_size]


@dataclass(frozen=True)
class Base:
    """The dataset that is appended to."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer

    @property
    def documents(self) -> int:
        return sum(record.documents for _, record in self.splits())

    def shards(self) -> Places:
        return {place: len(record.shards) for place, record in self.splits()}

    def samples(self) -> Places:
        return {place: record.samples for place, record in self.splits()}

    def splits(self) -> Iterator[tuple[tuple[str, str], SplitRecord]]:
        for domain, record in self.manifest.domains.items():
            for split, of_split in record.splits.items():
                yield (domain, split), of_split


def find_base(recipe: PrepareRecipe, tokenizer: Tokenizer | None) -> Base | None:
    """The dataset to append to; None if the recipe does not say so, or there is none yet.

    `tokenizer`: the recipe's, None if it would train one.

    Raises:
        DataError: the dataset is not whole, or the recipe makes samples of another kind.
    """
    output = recipe.folder
    if not recipe.append or not (output / FILE).is_file():
        return None
    manifest = verify_all(output)
    base = Base(output, manifest, Tokenizer.load(output / manifest.tokenizer.folder))
    for key, then, now in _differences(base, recipe, tokenizer):
        if then != now:
            raise DataError(f"{key}: {output} has {then}, the recipe says {now}; set it back to append, or {ANEW}")
    for domain in manifest.domains:
        if domain not in recipe.domains:
            raise DataError(f"domains: {output} has {domain}, the recipe has not; put it back to append, or {ANEW}")
    return base


def check_continues(base: Base | None, there: Manifest | None, url: str, output: Path) -> None:
    """Refuses to put at `url`, in the place of the dataset that is there, one that does not go on from it.

    Raises:
        DataError: `there`, whole or not, is neither the base nor one that the base was appended to.
    """
    known = set()
    if base is not None:
        known = {base.manifest.fingerprint, *(of.dataset_fingerprint for of in base.manifest.additions)}
    if there is not None and there.fingerprint not in known:
        raise DataError(
            f"append: {url} has a dataset that the one in {output} does not go on from; copy that one to {output} "
            "first, or choose another URL"
        )


def _differences(base: Base, recipe: PrepareRecipe, tokenizer: Tokenizer | None) -> Iterator[tuple[str, Any, Any]]:
    """(key, what the dataset has, what the recipe says)"""
    manifest, choice = base.manifest, recipe.tokenizer
    yield "max_seq_len", manifest.max_seq_len, recipe.max_seq_len
    yield "packing", manifest.recipe["packing"], recipe.packing.value
    yield "seed", manifest.seed, recipe.seed
    yield "heldout_fraction", manifest.heldout_fraction, float(recipe.heldout_fraction)
    if choice.kind is TokenizerKind.train:
        yield "tokenizer.vocab_size", manifest.tokenizer.vocab_size, choice.vocab_size
    elif tokenizer is not None:
        of_recipe = f"{tokenizer.name} ({tokenizer.fingerprint[:12]})"
        yield "tokenizer", f"{manifest.tokenizer.name} ({manifest.tokenizer.fingerprint[:12]})", of_recipe
    hashes = {name for _, record in base.splits() for shard in record.shards for name in shard.hashes}
    yield "hashes", ", ".join(sorted(hashes)), ", ".join(sorted(recipe.hashes))


def lineage_of(base: Base, spark: SparkSession) -> DataFrame:
    """The dataset's documents (columns: data/lineage.py)."""
    return spark.read.option("recursiveFileLookup", "true").parquet(spark_path(base.folder / LINEAGE))


def old_first(unique: DataFrame, base: DataFrame, domains: int) -> DataFrame:
    """The documents, of which those that the dataset has already keep its domain and have a priority below 0.

    `base`: its lineage; `domains`: how many the recipe has. A document counts as the dataset's only if the source that
    it came from still gives it: another one's counts know nothing of it.
    """
    known = ["domain", "source", "origin", "licence", "time"]
    marked = unique.join(base.select("key", F.struct(known).alias("old")), "key", "left")
    is_old = F.col("old").isNotNull() & F.array_contains("found_in", F.struct("old.domain", "old.source"))
    columns: dict[str, Column] = {name: F.when(is_old, F.col(f"old.{name}")).otherwise(F.col(name)) for name in known}
    columns["priority"] = F.col("priority") - F.when(is_old, domains).otherwise(0)
    return marked.withColumns(columns).select(unique.columns).drop("found_in")


def check_all_found(unique: DataFrame, base: Base, lineage: DataFrame) -> None:
    """Refuses sources that no longer give what is in the dataset: what is counted and compared would not be all of it.

    `unique`: as `old_first` has left it.

    Raises:
        DataError: a document of the dataset is not among them.
    """
    found = unique.where(~is_new())
    if (missing := base.documents - found.count()) == 0:
        return
    lost = lineage.join(found.select("key"), "key", "left_anti").orderBy("key").limit(3)
    examples = ", ".join(f"{row.origin} of {row.domain}" for row in lost.select("origin", "domain").collect())
    raise DataError(
        f"append: {missing:,} of the {base.documents:,} documents of {base.folder} no longer come out of the recipe's "
        f"sources and cleaning, for example {examples}; sources may be added, the old ones and how they are cleaned "
        f"stay: set that back, or {ANEW}"
    )


def merge_splits(base: Base, new: Splits, domains: list[str], dataset: Path) -> Splits:
    """Puts the old shards, their index entries and their lineage before the new ones in `dataset`. Whatever of this was
    done before is done again.

    `new`: splits that have new shards, with all their documents counted; `domains`: all, in the order of the result.
    """
    merged: Splits = {domain: dict(new.get(domain, {})) for domain in domains}
    for (domain, split), old in base.splits():
        name = folder_of(domain, split)
        _link([base.folder / name / shard.file for shard in old.shards], dataset / name)
        _link((base.folder / LINEAGE / name).glob("*.parquet"), dataset / LINEAGE / name)
        index, added = verify_index(base.folder / name, old), merged[domain].get(split)
        if added is not None:
            index += verify_index(dataset / name, added)
        write_index(dataset / name, index)
        merged[domain][split] = old if added is None else _sum(old, added)
    return {domain: {split: of[split] for split in SPLITS if split in of} for domain, of in merged.items()}


def addition(base: Base, recipe_fingerprint: str) -> AdditionRecord:
    """What the manifest says of this appending."""
    shards: dict[str, dict[str, int]] = {}
    for (domain, split), record in base.splits():
        shards.setdefault(domain, {})[split] = len(record.shards)
    return AdditionRecord(base.manifest.fingerprint, recipe_fingerprint, shards)


def write_targets(targets: Targets, folder: Path) -> None:
    """So that the unigram loss of a dataset that grows is that of all its tokens, without reading them again."""
    columns: dict[str, list[Any]] = {name: [] for name in ("domain", "split", "token", "count")}
    for (domain, split), counts in targets.items():
        (tokens,) = np.nonzero(counts)
        columns["domain"] += [domain] * len(tokens)
        columns["split"] += [split] * len(tokens)
        columns["token"] += tokens.tolist()
        columns["count"] += counts[tokens].tolist()
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / TARGETS, compression="zstd")


def add_targets(base: Base, new: Targets) -> Targets:
    """The counts of the dataset with the new ones.

    Raises:
        DataError: the dataset's can't be read.
    """
    path, size = base.folder / TARGETS, base.manifest.tokenizer.vocab_size
    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"can't read {path} ({str(error).splitlines()[0]}); {AGAIN}") from None
    targets = {place: counts.copy() for place, counts in new.items()}
    for domain, split, token, count in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        targets.setdefault((domain, split), np.zeros(size, np.int64))[token] += count
    return targets


def _link(files: Iterable[Path], folder: Path) -> None:
    """The same files in another folder of the same disk; copies, where there are no hard links."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        here = folder / file.name
        here.unlink(missing_ok=True)
        try:
            here.hardlink_to(file)
        except OSError:
            shutil.copy2(file, here)


def _sum(old: SplitRecord, new: SplitRecord) -> SplitRecord:
    return replace(
        new,
        tokens=old.tokens + new.tokens,
        padding_tokens=old.padding_tokens + new.padding_tokens,
        samples=old.samples + new.samples,
        shards=[*old.shards, *new.shards],
    )
