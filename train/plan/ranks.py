"""How the ranks of a run are arranged, what they share, and what each of them has to do."""

from __future__ import annotations

from typing import Any

from data.words import plural
from train.layout import Layout
from train.recipe import Recipe

MOST_ROWS, MOST_COLUMNS, MOST_LISTED = 8, 8, 8  # that are shown whole
GAP = "..."


def arrangement(recipe: Recipe, ranks: int) -> dict[str, Any]:
    """The mesh, the groups of ranks that share something, and a rank's part of a step."""
    layout = Layout.of(recipe, ranks)
    share = recipe.global_train_batch_size // ranks
    micro = recipe.device_train_microbatch_size or share
    return {
        "ranks": ranks,
        "replicate": layout.replicate,
        "efsdp": layout.efsdp,
        "ep": layout.ep,
        "experts_per_rank": recipe.model.ffn_config.moe_num_experts // layout.ep,
        "groups": groups(layout),
        "samples_per_rank": share,
        "tokens_per_rank": share * recipe.max_seq_len,
        "microbatches": share // micro,
        "samples_per_microbatch": micro,
        "tokens_per_microbatch": micro * recipe.max_seq_len,
    }


def groups(layout: Layout) -> list[dict[str, Any]]:
    """Who shares what: each group is as large as `size`, and that of rank 0 is `first`."""
    ep, shard, ranks = layout.ep, layout.shard, layout.ranks
    found = [
        ("tokens and the experts they go to, by all-to-all", range(ep)),
        ("the weights of the same experts, gathered and reduced", range(0, shard, ep)),
        ("all other weights, gathered and reduced", range(shard)),
        ("gradients of the same shard, summed over replicas", range(0, ranks, shard)),
    ]
    return [
        {"what": what, "groups": ranks // len(first), "size": len(first), "first": [*first]}
        for what, first in found
        if len(first) > 1
    ]


def grid(arranged: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The mesh for people: a column for each share of the experts, a row for each (replica, efsdp); the first ranks
    and the last where there are many."""
    replicate, efsdp, ep = (arranged[name] for name in ("replicate", "efsdp", "ep"))
    experts = arranged["experts_per_rank"]
    columns = [GAP if n is None else expert_range(n * experts, experts) for n in shortened(ep, MOST_COLUMNS)]
    rows = []
    for number in shortened(replicate * efsdp, MOST_ROWS):
        if number is None:
            rows.append((GAP, [""] * len(columns)))
            continue
        replica, place = divmod(number, efsdp)
        name = f"efsdp {place}" if replicate == 1 else f"replica {replica}, efsdp {place}"
        cells = [GAP if n is None else f"{number * ep + n:,}" for n in shortened(ep, MOST_COLUMNS)]
        rows.append((name, cells))
    return columns, rows


def expert_range(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first}-{first + count - 1}"


def shortened(count: int, most: int) -> list[int | None]:
    """0 to count - 1; where there are more than `most`, the first few and the last, with None between."""
    return [*range(count)] if count <= most else [*range(most - 2), None, count - 1]


def listed(ranks: list[int]) -> str:
    """Ranks as a person would list them: `0 to 7`, or `0, 8, 16, ..., 56`."""
    if len(ranks) > 2 and ranks[1] - ranks[0] == 1:
        return f"{ranks[0]} to {ranks[-1]:,}"
    return ", ".join(GAP if n is None else f"{ranks[n]:,}" for n in shortened(len(ranks), MOST_LISTED))


def in_words(arranged: dict[str, Any]) -> tuple[str, str]:
    """The mesh, and what each rank has to do."""
    replicate, efsdp, ep = (arranged[name] for name in ("replicate", "efsdp", "ep"))
    mesh = f" = {replicate} (replicate) x {efsdp} (efsdp) x {ep} (ep)" if arranged["ranks"] > 1 else ""
    work = plural(arranged["microbatches"], "microbatch").replace("batchs", "batches")
    tokens = f"{arranged['tokens_per_microbatch']:,} tokens"
    each = plural(arranged["samples_per_microbatch"], "sample")
    return f"{plural(arranged['ranks'], 'rank')}{mesh}", f"in a step each has {work} of {each}, {tokens}"
