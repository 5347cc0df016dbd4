"""How the ranks of a run are arranged. Nothing heavy is imported here, so that a bad recipe is refused in a moment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from model.config import ExpertsImplementation
from train.recipe import Recipe
from train.schema import Problem

SLOT_ELEMENTS = 2**31  # of [token-expert pairs, d_model]; model/experts/megablocks_experts.py says why


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


def fewest_ranks(recipe: Recipe) -> int:
    """The smallest number of ranks that the recipe's parallel block allows."""
    parallel = recipe.parallel
    return parallel.data_parallel_replicate * (parallel.data_parallel_shard or parallel.expert_parallel)


def layout_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What can't be arranged on this many ranks."""
    parallel = recipe.parallel
    replicate, shard, ep = parallel.data_parallel_replicate, parallel.data_parallel_shard, parallel.expert_parallel
    if ranks % replicate:
        expected = f"expected a divisor of the number of ranks ({ranks})"
        yield "parallel.data_parallel_replicate", f"{expected}, found {replicate}{divisors_near(ranks, replicate)}"
        return
    if shard not in (None, ranks // replicate):
        expected = f"expected {ranks // replicate}, for data_parallel_replicate x data_parallel_shard is the number"
        yield "parallel.data_parallel_shard", f"{expected} of ranks ({replicate} x {shard} is not {ranks})"
        return
    shard = ranks // replicate
    if shard % ep:
        expected = f"expected a divisor of data_parallel_shard ({shard} on {ranks} ranks)"
        both = math.gcd(shard, recipe.model.ffn_config.moe_num_experts)  # and of the experts
        yield "parallel.expert_parallel", f"{expected}, found {ep}{divisors_near(both, ep)}"


def batch_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What of the batch does not divide over this many ranks, or is too much at once."""
    batch, micro = recipe.global_train_batch_size, recipe.device_train_microbatch_size
    if batch % ranks:
        expected = f"expected a multiple of the number of ranks ({ranks})"
        yield "global_train_batch_size", f"{expected}, found {batch}{multiples_near(ranks, batch)}"
        return
    share = batch // ranks
    if micro is not None and share % micro:
        found = f"a rank's share is {share} samples ({batch} over {ranks} ranks)"
        expected = f"expected a divisor of a rank's share, found {micro}, where {found}"
        yield "device_train_microbatch_size", f"{expected}{divisors_near(share, micro)}"
    else:
        yield from megablocks_problems(recipe, share)


def megablocks_problems(recipe: Recipe, share: int) -> Iterator[Problem]:
    """Experts that are chosen by themselves are MegaBlocks' on a GPU, and are held to what the recipe says itself: on
    how many ranks a plan's will be is not known."""
    experts, micro = recipe.model.experts, recipe.device_train_microbatch_size
    if experts is ExpertsImplementation.megablocks:
        micro = micro or share
    elif experts is not ExpertsImplementation.auto or not recipe.model.fits_megablocks:
        return
    yield from slot_problems(recipe, "device_train_microbatch_size", micro or 0)
    yield from slot_problems(recipe, "device_eval_batch_size", recipe.device_eval_batch_size or 0)


def slot_problems(recipe: Recipe, key: str, micro: int) -> Iterator[Problem]:
    """MegaBlocks' kernels count the elements of a microbatch's token-expert pairs in 32 bits."""
    width = recipe.max_seq_len * recipe.model.ffn_config.moe_top_k * recipe.model.d_model
    if micro * width >= SLOT_ELEMENTS:
        most = (SLOT_ELEMENTS - 1) // width
        expected = f"expected at most {most}" if most else "expected a shorter max_seq_len"
        limit = "max_seq_len x moe_top_k x d_model elements of each sample's token-expert pairs must stay below 2^31"
        yield key, f"{expected} with megablocks experts, found {micro}: {limit} in all"


def rank_problems(recipe: Recipe, ranks: int) -> Iterator[Problem]:
    """What does not divide over this many ranks."""
    yield from batch_problems(recipe, ranks)
    yield from layout_problems(recipe, ranks)


def divisors_near(of: int, number: int) -> str:
    """`; 2 and 4 would do`: the divisors on both sides of a number that is none."""
    below = max(divisor for divisor in range(1, min(of, number) + 1) if of % divisor == 0)
    above = next((divisor for divisor in range(number + 1, of + 1) if of % divisor == 0), None)
    return f"; {below} would do" if above is None else f"; {below} and {above} would do"


def multiples_near(of: int, number: int) -> str:
    """`; 8 and 12 would do`: the multiples on both sides of a number that is none."""
    below = number // of * of
    return f"; {below + of} would do" if below == 0 else f"; {below} and {below + of} would do"
