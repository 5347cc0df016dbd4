"""Datasets made up of a manifest and of shards that hold nothing but have the right size: a plan opens none."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.manifest import DomainRecord, Manifest, ShardRecord, SplitRecord, TokenizerRecord, folder_of

WriteRun = Callable[..., Path]


def use_one_thread() -> None:
    """In a forked child: OpenMP's threads stayed with the parent, and torch would wait for them for ever."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=use_one_thread)


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


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a dataset and a recipe for it into `tmp_path`; returns the recipe's path."""

    def write(
        domains: dict[str, Sequence[int]], anchors: list[dict[str, Any]], max_seq_len: int = 10, **recipe: Any
    ) -> Path:
        write_dataset(tmp_path / "dataset", made_up_manifest(domains, max_seq_len))
        content = {
            "run_name": "test",
            "run_root": str(tmp_path / "runs"),
            "max_duration": "100ba",
            "global_train_batch_size": 8,
            "max_seq_len": max_seq_len,
            "dataset": {"path": str(tmp_path / "dataset")},
            "curriculum": {"anchors": anchors},
            "model": {"max_seq_len": max_seq_len, "vocab_size": 8192},
            **recipe,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
