"""Experts on several gloo ranks, forked from this process, each with its own tokens, against one process in fp64."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from expert_cases import Case, built, draw, expected, worst_error


@dataclass
class Ranks:
    """A mesh of efsdp x ep ranks and the case that each rank draws from."""

    kind: str
    cases: list[Case]  # one for each rank; they differ in tokens and routing only
    efsdp: int = 1

    @property
    def ep(self) -> int:
        return len(self.cases) // self.efsdp


# Different tokens on each rank: uneven and empty experts; a rank without tokens beside one that is sent them all;
# a single token.
CASES = [Case(*numbers, n_experts=4) for numbers in ((17, 2, 3), (6, 2, 4), (0, 2, 4), (1, 2, 2))]
ALL_TO_FIRST = [Case(*numbers, n_experts=4) for numbers in ((0, 1, 1), (9, 1, 1))]
RANKS = {
    "ep 1": lambda kind: Ranks(kind, CASES[:1]),
    "ep 2": lambda kind: Ranks(kind, CASES[:2]),
    "ep 2, all to the first": lambda kind: Ranks(kind, ALL_TO_FIRST),
    "ep 4": lambda kind: Ranks(kind, CASES),
    "efsdp 2, ep 2": lambda kind: Ranks(kind, CASES, efsdp=2),
}


def errors_on_ranks(ranks: Ranks) -> list[float]:
    """Each rank's worst error: its output, the gradients of its x and weights, and those of all parameters."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, args=(ranks, Path(folder)), nprocs=len(ranks.cases), start_method="fork")
        return [torch.load(Path(folder) / str(rank)) for rank in range(len(ranks.cases))]


def _rank(rank: int, ranks: Ranks, folder: Path) -> None:
    torch.set_num_threads(1)
    world = len(ranks.cases)
    dist.init_process_group("gloo", rank=rank, world_size=world, store=dist.FileStore(str(folder / "store"), world))
    mesh = init_device_mesh("cpu", (ranks.efsdp, ranks.ep), mesh_dim_names=("efsdp", "ep"))
    experts = built(ranks.cases[rank], ranks.kind)
    whole = [p.detach().clone() for p in experts.parameters()]
    experts.parallelise(mesh["ep"])
    for parameter in experts.parameters():
        assert isinstance(parameter, DTensor) and parameter.placements == (Shard(0),)
        assert len(parameter.to_local()) == len(parameter) // ranks.ep
    if ranks.efsdp > 1:
        fully_shard(experts, mesh=mesh["efsdp"])
    x, weights, chosen, grad = draw(ranks.cases[rank], seed=rank)
    x.requires_grad_(), weights.requires_grad_()
    output, computed = experts(x, weights, chosen)
    lost = chosen.numel() - computed
    dist.all_reduce(lost)  # over all ranks none, though a rank computes what others send
    assert lost == 0
    output.backward(grad)
    gradients = [p.grad.full_tensor() for p in experts.parameters()]
    mine = [t.double() for t in (output.detach(), x.grad, weights.grad, *gradients)]
    torch.save(worst_error(mine, wanted(ranks, rank, whole)), folder / str(rank))
    dist.destroy_process_group()


def wanted(ranks: Ranks, rank: int, parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """A rank's own output and gradients, and the mean over all ranks of the gradients of the parameters."""
    of_ranks = [expected(case, parameters, seed) for seed, case in enumerate(ranks.cases)]
    means = [torch.stack(gradients).mean(0) for gradients in zip(*(one[3:] for one in of_ranks), strict=True)]
    return [*of_ranks[rank][:3], *means]
