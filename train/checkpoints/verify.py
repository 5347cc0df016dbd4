"""Before a run goes on, its newest checkpoint is read whole and held against its checksums; each rank reads a share.

A damaged one is set aside, and the one before it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from composer.utils import dist

from data.words import byte_count
from train.checkpoints.checksums import damages, read_checksums, share_of
from train.checkpoints.names import DAMAGED, set_aside, steps_of, whole_checkpoints
from train.errors import RecipeError


def newest_good_checkpoint(
    folder: Path,
    say: Callable[[str], None],
    at_or_before: int | None = None,
    fetch_again: Callable[[], None] | None = None,
) -> Path | None:
    """The newest checkpoint (of at most `at_or_before` steps) that is what was written; None: nothing was ever saved.

    Called on every rank, with the same answer. Newer ones that are damaged are not there afterwards.

    Args:
        fetch_again: called on rank 0 when a damaged one was found, and once at most: brings a good copy of it, if any.

    Raises:
        RecipeError: there are checkpoints, and all are damaged.
    """
    while checkpoint := newest_of_all(folder, at_or_before):
        found = damage(checkpoint, say)
        if not found:
            return checkpoint
        say(f"warning: {found[0]}; {checkpoint.name} is set aside, and the checkpoint before it is looked at")
        if dist.get_global_rank() == 0:
            set_aside(checkpoint)
            if fetch_again:
                try:
                    fetch_again()
                except RecipeError as error:  # the others wait
                    say(f"warning: {error}")
        fetch_again = None
        dist.barrier()
    if damaged := len(list(folder.glob(f"{DAMAGED}*"))):
        raise RecipeError(
            f"{folder}: no checkpoint is good ({damaged} damaged); restore one from a copy, or delete the folder to "
            "begin anew"
        )
    return None


def newest_of_all(folder: Path, at_or_before: int | None) -> Path | None:
    """As rank 0 sees it; whether it is good is not looked at."""
    found = [path for path in whole_checkpoints(folder) if at_or_before is None or steps_of(path) <= at_or_before]
    return dist.all_gather_object(found[-1] if found else None)[0]


def damage(checkpoint: Path, say: Callable[[str], None]) -> list[str]:
    """What all ranks together find wrong with a checkpoint; each reads a share of its files."""
    mine: list[str] = []
    try:
        sums = read_checksums(checkpoint)
        say(f"verifying {checkpoint} ({byte_count(sum(known.bytes for known in sums.values()))})")
        mine = damages(checkpoint, sums, share_of(sums, dist.get_global_rank(), dist.get_world_size()))
    except ValueError as error:
        mine = [str(error)]
    return [*chain.from_iterable(dist.all_gather_object(mine))]
