"""How the ranks of a run are arranged. Nothing heavy is imported here, so that a bad recipe is refused in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from train.recipe import Recipe
from train.schema import Problem


@dataclass(frozen=True)
class Layout:
    """A mesh of replicate x efsdp x ep ranks; rank r stands at r in row-major order, so that the `ep` ranks that
    exchange tokens in every layer are neighbours.

    Attributes:
        replicate: groups of ranks that each hold one copy of the model between them (HSDP).
        efsdp: ranks that shard one expert's weights.
        ep: ranks that share out the experts, and send each other tokens.
    """

    replicate: int
    efsdp: int
    ep: int

    @property
    def ranks(self) -> int:
        return self.replicate * self.shard

    @property
    def shard(self) -> int:
        """Ranks that hold one copy of the model between them: its dense weights are sharded over all of these."""
        return self.efsdp * self.ep

    @classmethod
    def of(cls, recipe: Recipe, ranks: int) -> Layout:
        """The layout of a recipe that `layout_problems` has nothing to say about."""
        parallel = recipe.parallel
        shard = parallel.data_parallel_shard or ranks // parallel.data_parallel_replicate
        return cls(parallel.data_parallel_replicate, shard // parallel.expert_parallel, parallel.expert_parallel)


def layout_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What can't be arranged on this many ranks."""
    parallel = recipe.parallel
    replicate, shard, ep = parallel.data_parallel_replicate, parallel.data_parallel_shard, parallel.expert_parallel
    if shard is None and ranks % replicate:
        yield (
            "parallel.data_parallel_replicate",
            f"expected a divisor of the number of ranks ({ranks}), found {replicate}",
        )
        return
    if shard is not None and replicate * shard != ranks:
        expected = f"expected {ranks / replicate:g}, for data_parallel_replicate x data_parallel_shard is the number"
        yield "parallel.data_parallel_shard", f"{expected} of ranks ({replicate} x {shard} is not {ranks})"
        return
    shard = ranks // replicate
    if shard % ep:
        expected = f"expected a divisor of data_parallel_shard ({shard} on {ranks} ranks)"
        yield "parallel.expert_parallel", f"{expected}, found {ep}"


def batch_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What of the batch does not divide over this many ranks."""
    batch, micro = recipe.global_train_batch_size, recipe.device_train_microbatch_size
    if batch % ranks:
        yield "global_train_batch_size", f"expected a multiple of the number of ranks ({ranks}), found {batch}"
    elif micro is not None and (batch // ranks) % micro:
        found = f"a rank's share is {batch // ranks} samples ({batch} over {ranks} ranks)"
        yield "device_train_microbatch_size", f"expected a divisor of a rank's share, found {micro}, where {found}"


def rank_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What does not divide over this many ranks."""
    yield from batch_problems(recipe, ranks)
    yield from layout_problems(recipe, ranks)
