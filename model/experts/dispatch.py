"""Expert parallelism around any local computation: slots travel to the ranks that hold their experts, and back.

The `torch` experts go this way. The `megablocks` experts take the package's own parallel path, which does the same on
its own permutation kernels; both have one rule for gradients, in `weights.py`.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_to_all_single
from torch.profiler import record_function

from model.experts.slots import Slots, sort_slots, spread

Compute = Callable[[Tensor, Slots], Tensor]  # rows and their slots -> the experts' output for each slot


def compute_remotely(x_ND: Tensor, slots: Slots, compute: Compute, group: dist.ProcessGroup) -> Tensor:
    """[S, D]: the experts' output for each of this rank's slots, wherever the experts are. A collective.

    Rank r of the group holds the r-th share of the experts, so slots in order of experts are in order of ranks too.
    They are sent once and brought back once; their numbers go ahead, and both sides wait for these.
    """
    ranks = dist.get_world_size(group)
    sent_PE = _lengths(slots.ends, x_ND.device).view(ranks, -1)
    received_PE = torch.empty_like(sent_PE)
    with record_function("all-to-all"):  # a name in a profile, where waiting for other ranks has none of its own
        dist.all_to_all_single(received_PE, sent_PE, group=group)
        sent, received = sent_PE.sum(1).tolist(), received_PE.sum(1).tolist()
    local_SD = _exchange(spread(x_ND, slots), sent, received, group)
    here = sort_slots(_experts_of(received_PE), received_PE.shape[1])
    out_SD = compute(local_SD, here).index_select(0, here.place_NK.flatten())
    return _exchange(out_SD, received, sent, group)


def _exchange(x: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """Sends the first rows to the group's first rank and so on; returns what came, by rank. Differentiable."""
    out = x.new_empty(sum(received), *x.shape[1:])
    return all_to_all_single(out, x, received, sent, group)


def _experts_of(received_PE: Tensor) -> Tensor:
    """int64 [rows, 1]: this rank's expert for each row received; a rank's rows come in order of its experts."""
    experts_PE = torch.arange(received_PE.shape[1], device=received_PE.device).expand_as(received_PE)
    return experts_PE.flatten().repeat_interleave(received_PE.flatten())[:, None]


def _lengths(ends: list[int], device: torch.device) -> Tensor:
    return torch.tensor(ends, device=device).diff(prepend=torch.zeros(1, dtype=torch.int64, device=device))
