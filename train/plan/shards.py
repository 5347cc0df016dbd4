"""The shards that a run reads: how many, how large, and how much of them is not on this machine yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from data.manifest import Manifest, ShardRecord, file_sizes, folder_of
from data.mixture.plan import Plan
from train.recipe import Recipe

Counts = dict[str, int]


def shards_to_read(recipe: Recipe, manifest: Manifest, plan: Plan, delivered: Sequence[int]) -> dict[str, object]:
    """Shards and bytes by domain, held out, and in all, for a run that draws `delivered` [domains] samples."""
    dataset, remote = Path(recipe.dataset.path), recipe.dataset.remote is not None
    domains, heldout = {}, []
    for order, draws in zip(plan.orders, delivered, strict=True):
        splits = manifest.domains[order.domain].splits
        shards = splits["train"].shards
        touched = [shards[number] for number in order.shards_touched(draws).tolist()]
        domains[order.domain] = count(dataset / folder_of(order.domain, "train"), touched, len(shards), remote)
        evaluated = splits["heldout"].shards
        heldout.append(count(dataset / folder_of(order.domain, "heldout"), evaluated, len(evaluated), remote))
    parts = {"domains": domains, "heldout": total(heldout), **total([*domains.values(), *heldout])}
    return {"remote": recipe.dataset.remote, **parts}


def count(folder: Path, shards: Sequence[ShardRecord], of: int, remote: bool) -> Counts:
    """What there is to these shards of a folder that has `of`, or from which the rest comes."""
    here = file_sizes(folder) if folder.is_dir() else {}
    missing = [shard.bytes for shard in shards if remote and not is_here(shard.file, here)]
    return {
        "shards": len(shards),
        "of_shards": of,
        "bytes": sum(shard.bytes for shard in shards),
        "bytes_to_download": sum(missing),
    }


def is_here(file: str, here: Collection[str]) -> bool:
    """Whether a shard is among these files; one that came compressed may have been unpacked: `.mds.zstd` to `.mds`."""
    return file in here or (not file.endswith(".mds") and file.rpartition(".")[0] in here)


def total(parts: Iterable[Counts]) -> Counts:
    parts = list(parts)
    return {key: sum(part[key] for part in parts) for key in parts[0]}
