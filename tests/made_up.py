"""Datasets made up of a manifest and of shards that hold nothing but have the right size: a plan opens none."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from data.manifest import DomainRecord, Manifest, ShardRecord, SplitRecord, TokenizerRecord, folder_of


def split(samples: Sequence[int], max_seq_len: int) -> SplitRecord:
    """Shards with these many samples each, of 4 bytes a token."""
    shards = [
        ShardRecord(f"shard.{number:05}.mds", count, 4 * max_seq_len * count, {"sha1": f"{number:040x}"})
        for number, count in enumerate(samples)
    ]
    return SplitRecord(1, sum(samples) * max_seq_len, 0, sum(samples), shards)


def made_up_manifest(domains: dict[str, Sequence[int]], max_seq_len: int) -> Manifest:
    """Domains whose train shards have these many samples; one small shard each is held out."""
    records = {
        name: DomainRecord(
            1, {}, 0, 1, [], {}, {"train": split(samples, max_seq_len), "heldout": split([2], max_seq_len)}, None
        )
        for name, samples in domains.items()
    }
    tokenizer = TokenizerRecord("bpe", 8192, 0, "f", "tokenizer")
    return Manifest(max_seq_len, "uint32", 1, 0.1, tokenizer, records, "r", {})


def write_dataset(folder: Path, manifest: Manifest) -> None:
    for domain, record in manifest.domains.items():
        for name, part in record.splits.items():
            where = folder / folder_of(domain, name)
            where.mkdir(parents=True)
            entries = []
            for shard in part.shards:
                (where / shard.file).touch()
                os.truncate(where / shard.file, shard.bytes)  # takes no room on the disk
                raw = {"basename": shard.file, "bytes": shard.bytes, "hashes": shard.hashes}
                entries.append({"samples": shard.samples, "raw_data": raw, "zip_data": None})
            (where / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))
    manifest.write(folder)
