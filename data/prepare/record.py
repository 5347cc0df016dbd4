"""The manifest of a run: counts and index entries, put together on the driver."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from data.manifest import SPLITS, DomainRecord, SourceRecord, SplitRecord, folder_of, shard_record
from data.prepare import unigram
from data.prepare.documents import DomainCounts
from data.prepare.inputs import Input
from data.prepare.recipe import without_password
from data.prepare.shards import Layout, write_index


def record_splits(
    written: DataFrame, layout: Layout, counts: dict[str, DomainCounts], folder: Path
) -> dict[str, dict[str, SplitRecord]]:
    """Writes each split's index.json and returns the splits' records, domain -> split -> record."""
    entries: dict[tuple[str, str], list[Any]] = {place: [] for place in layout.first_shard}
    for row in written.select("shard", "samples", "tokens", "padding", "entry").orderBy("shard").collect():
        domain, split, number = layout.split_of(row.shard)
        assert number == len(entries[domain, split]), f"shard {number} of {domain}/{split} was not written"
        entries[domain, split].append(row)
    records: dict[str, dict[str, SplitRecord]] = {domain: {} for domain in counts}
    for domain in counts:
        for split in SPLITS:
            if rows := entries.get((domain, split)):
                index = [json.loads(row.entry) for row in rows]
                write_index(folder / folder_of(domain, split), index)
                records[domain][split] = SplitRecord(
                    documents=counts[domain].kept[split],
                    tokens=sum(row.tokens for row in rows),
                    padding_tokens=sum(row.padding for row in rows),
                    samples=sum(row.samples for row in rows),
                    shards=[shard_record(entry) for entry in index],
                )
    return records


def count_tokens(tokenized: DataFrame) -> list[Row]:
    """Kept documents and their tokens by domain, source, split and power, the power of two in a document's tokens."""
    power = (F.length(F.bin("count")) - 1).alias("power")
    by = tokenized.groupBy("domain", "source", "split", power)
    return by.agg(F.count("*").alias("documents"), F.sum("count").alias("tokens")).collect()


def lengths_of(counted: Iterable[Row]) -> dict[str, int]:
    """Documents by number of tokens, as a manifest has them."""
    by_power: Counter[int] = Counter()
    for row in counted:
        by_power[row.power] += row.documents
    return {str(1 << power): by_power[power] for power in sorted(by_power)}


def record_domain(
    counts: DomainCounts,
    splits: dict[str, SplitRecord],
    inputs: list[Input],
    loss: float | None,
    counted: list[Row],
) -> DomainRecord:
    """One domain's record; `inputs` and `counted` are the domain's own."""
    return DomainRecord(
        documents_read=counts.read,
        dropped=counts.dropped,
        duplicates=counts.duplicates,
        bytes=counts.bytes,
        sources=[record_source(item, counts, [row for row in counted if row.source == item.number]) for item in inputs],
        origins=counts.origins,
        splits=splits,
        unigram_loss=loss,
        cleaning=counts.cleaning,
        languages=most_first(counts.languages),
        licences=counts.licences,
        deduplication=counts.deduplication,
        lengths=lengths_of(counted),
    )


def record_source(item: Input, of_domain: DomainCounts, counted: list[Row]) -> SourceRecord:
    """One source's record; `counted` is the source's own."""
    counts = of_domain.sources[item.number]
    return SourceRecord(
        path=without_password(item.name),
        format="table" if item.source.table else item.source.format.value,
        files=item.file_count,
        bytes=item.bytes,
        documents=counts.read,
        kept=counts.kept,
        kept_bytes=counts.bytes,
        tokens=sum(row.tokens for row in counted),
        dropped={step: counts.dropped[step] for step in of_domain.dropped if step in counts.dropped},
        duplicates=counts.duplicates,
        languages=most_first(counts.languages),
        lengths=lengths_of(counted),
    )


def most_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def target_counts(written: DataFrame, layout: Layout, vocab_size: int) -> dict[tuple[str, str], np.ndarray]:
    """How often each token is a target, by domain and split: [vocab_size] each."""
    places = list(layout.first_shard)
    firsts = F.array(*(F.lit(first) for first in layout.first_shard.values()))
    # A shard's group is the place of the last split that begins at or before it.
    group = F.size(F.filter(firsts, lambda first: first <= F.col("shard"))) - 1
    counts = unigram.target_counts(written.withColumn("group", group), vocab_size)
    return {places[number]: counts[number] for number in sorted(counts)}


def unigram_losses(targets: dict[tuple[str, str], np.ndarray]) -> dict[str, float]:
    """Each domain's unigram loss by its target_counts; a domain without held-out samples has none."""
    return {
        domain: unigram.unigram_loss(targets[domain, "train"], heldout)
        for (domain, split), heldout in targets.items()
        if split == "heldout"
    }
