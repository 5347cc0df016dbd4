"""The memory of a rank, predicted, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.words import byte_count
from train.cache import size_in_words
from train.layout import Layout
from train.memory.moments import moments
from train.memory.work import Work
from train.recipe import Recipe


def predicted_memory(recipe: Recipe, ranks: int, limit: int | None) -> dict[str, Any]:
    """Bytes of rank 0 at the worst moment of a step, by what takes them; `limit` is what its device has.

    From its first save on, a run keeps a copy of its parameters and AdamW's averages in the machine's own memory, which
    on a CPU is that of the rank.
    """
    work = Work.of(recipe, Layout.of(recipe, ranks))
    worst = max(moments(work), key=lambda moment: moment.total)
    copy = worst.parts["parameters"] + worst.parts["optimizer"]
    parts = {**worst.parts, "staging": 0 if work.gpu else copy}
    return {
        "bytes": sum(parts.values()),
        "moment": worst.name,
        "parts": parts,
        "device": "gpu" if work.gpu else "cpu",
        "machine_bytes": copy if work.gpu else 0,
        "limit": limit,
    }


def memory_warnings(memory: dict[str, Any]) -> Iterator[str]:
    """A sentence if it will not fit."""
    limit = memory["limit"]
    if limit is not None and memory["bytes"] > limit:
        needed = f"a rank needs {byte_count(memory['bytes'])} by prediction"
        less = "more ranks, a smaller device_train_microbatch_size or parallel.activation_checkpointing need less"
        yield f"{needed}, more than the {size_in_words(limit)} of --memory: {less}"


def memory_notes(memory: dict[str, Any]) -> list[str]:
    """When that is, and what it leaves out."""
    notes = [f"memory is highest in {memory['moment']}"]
    if memory["device"] == "cpu":
        return [*notes, "balanced routing assumed; libraries come on top"]
    copy = f"{byte_count(memory['machine_bytes'])} of the machine's memory holds a copy for checkpoints"
    return [*notes, "balanced routing assumed; CUDA and NCCL come on top", copy]
