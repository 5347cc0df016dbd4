"""A dataset that is not there yet, of the sizes that the recipe plans it with: enough of a manifest to plan a run."""

from __future__ import annotations

import numpy as np

from data.manifest import DomainRecord, Manifest, ShardRecord, SplitRecord, TokenizerRecord
from data.mixture.times import parse_time
from train.recipe import Recipe

PLANNED = "planned"  # stands where a manifest has its recipe's fingerprint
SHARD_BYTES = 2**28  # as the data recipes in yamls/ have it


def planned_manifest(recipe: Recipe) -> Manifest:
    """The domains of `dataset.planned_tokens`, nothing held out."""
    tokenizer = TokenizerRecord(recipe.dataset.tokenizer or PLANNED, recipe.model.vocab_size, 0, PLANNED, PLANNED)
    token_dtype = "uint16" if recipe.model.vocab_size <= 2**16 else "uint32"
    sample_bytes = recipe.max_seq_len * np.dtype(token_dtype).itemsize
    domains = {}
    for name, tokens in recipe.dataset.planned_tokens.items():
        samples = int(parse_time(tokens).value) // recipe.max_seq_len
        splits = {"train": split(samples, recipe.max_seq_len, sample_bytes), "heldout": SplitRecord(0, 0, 0, 0, [])}
        domains[name] = DomainRecord(0, {}, 0, 0, [], {}, splits, None)
    return Manifest(recipe.max_seq_len, token_dtype, recipe.seed, 0.0, tokenizer, domains, PLANNED, {})


def split(samples: int, max_seq_len: int, sample_bytes: int) -> SplitRecord:
    at_most = max(1, SHARD_BYTES // sample_bytes)
    counts = [min(at_most, samples - first) for first in range(0, samples, at_most)]
    shards = [ShardRecord(f"{n:06}.mds", count, count * sample_bytes, {}) for n, count in enumerate(counts)]
    return SplitRecord(0, samples * max_seq_len, 0, samples, shards)
