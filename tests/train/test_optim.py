"""The optimizer and the norms by part on parameters of two meshes, held against plain tensors on one rank."""

import copy
import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from composer.core import Precision
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec
from torch.optim import AdamW

from model.composer_model import DbrxComposerModel
from model.config import PARTS, ModelConfig
from model.ffn_config import FFNConfig
from model.initialise import initialise, materialise
from model.parts import parts_of
from train.clipping import square_sums
from train.layout import Layout
from train.optim import build_optimizer
from train.parallel import shard
from train.recipe import OptimizerConfig
from train.update_norms import update_norms

MODEL = ModelConfig(
    d_model=24,  # of which 4 ranks have whole rows, and of the router's 4 one each
    n_heads=4,
    n_layers=3,
    vocab_size=42,
    ffn_config=FFNConfig(ffn_hidden_size=5, moe_num_experts=4, first_k_dense_replace=1, dense_ffn_hidden_size=3),
)
OPTIMIZER = OptimizerConfig(lr=0.01, weight_decay=0.3, undecayed=["norms", "router"])
LAYOUTS = [Layout(1, 1, 1), Layout(1, 2, 1), Layout(1, 1, 2), Layout(1, 2, 2), Layout(2, 1, 2)]
STEPS = 3


def draw_gradients(model: torch.nn.Module, step: int) -> None:
    """A function of the weights, so that every layout has the same without a message."""
    for parameter in model.parameters():
        parameter.grad = (parameter.detach() * (50 + step)).sin() * (step + 1)


def trained(model: DbrxComposerModel, optimizer: AdamW) -> dict[str, Any]:
    """Weights, and gradients' norms, after some steps; and the other norms of the last one."""
    parts, gradient_norms = parts_of(model), []
    for step in range(STEPS):
        draw_gradients(model, step)
        gradient_norms.append(square_sums([p.grad for p in part] for part in parts.values()))
        optimizer.step()
    return {
        "weights": {name: whole(parameter) for name, parameter in model.named_parameters()},
        "gradients": torch.tensor(gradient_norms, dtype=torch.float64).sqrt(),
        "norms": update_norms(parts, optimizer),
    }


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def _train(rank: int, layout: Layout, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), layout.ranks)
    dist.init_process_group("gloo", rank=rank, world_size=layout.ranks, store=store)
    model = sharded(layout)
    assert sorted(parts_of(model)) == sorted(PARTS)
    for part, parameters in parts_of(model).items():
        assert len({parameter.device_mesh for parameter in parameters}) == 1, part
    optimizer = build_optimizer(model, OPTIMIZER)
    torch.save(trained(model, optimizer), folder / f"{rank}.pt")
    resume_is_exact(model, optimizer, layout)
    nothing_is_left_of_a_step(model, optimizer)
    dist.destroy_process_group()


def sharded(layout: Layout) -> DbrxComposerModel:
    model = DbrxComposerModel(MODEL, ["web"], 0, device="meta")
    shard(model, Precision.FP32, layout=layout)
    materialise(model, "cpu")
    initialise(model.model, MODEL, 7)
    return model


def resume_is_exact(model: DbrxComposerModel, optimizer: AdamW, layout: Layout) -> None:
    """A step after the state went into a new optimizer by the names of parameters is the step of the old one."""
    again = sharded(layout)
    again.load_state_dict(model.state_dict())
    resumed = build_optimizer(again, OptimizerConfig())
    set_optimizer_state_dict(again, resumed, copy.deepcopy(get_optimizer_state_dict(model, optimizer)))
    for one, its_optimizer in ((model, optimizer), (again, resumed)):
        draw_gradients(one, STEPS)
        its_optimizer.step()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.to_local(), other.to_local())


def nothing_is_left_of_a_step(model: DbrxComposerModel, optimizer: AdamW) -> None:
    """torch's own AdamW leaves a DTensorSpec for each parameter, which nothing frees."""
    draw_gradients(model, STEPS)
    before = specs()
    for _ in range(3):
        optimizer.step()
    assert specs() == before


def specs() -> int:
    gc.collect()
    return sum(isinstance(thing, DTensorSpec) for thing in gc.get_objects())


def on_one_rank() -> dict[str, Any]:
    """Plain tensors, torch's plain loop, and what it really has subtracted."""
    model = DbrxComposerModel(MODEL, ["web"], 0, seed=7)
    undecayed = re.compile(r"\.(norm_[12f]|router\.layer)\.weight$")
    decayed = [p for name, p in model.named_parameters() if not undecayed.search(name)]
    rest = [p for name, p in model.named_parameters() if undecayed.search(name)]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    optimizer = AdamW(groups, lr=OPTIMIZER.lr, betas=(0.9, 0.95), eps=OPTIMIZER.eps, foreach=False, fused=False)
    parts, gradients = parts_of(model), []
    for step in range(STEPS):
        draw_gradients(model, step)
        gradients.append([norm([p.grad for p in part]) for part in parts.values()])
        before = {p: p.detach().double() for p in model.parameters()}
        optimizer.step()
    shrunk = {p: before[p] * (1 - 0.3 * OPTIMIZER.lr * any(p is q for q in decayed)) for p in model.parameters()}
    return {
        "weights": {name: whole(parameter) for name, parameter in model.named_parameters()},
        "gradients": torch.tensor(gradients, dtype=torch.float64),
        "norms": {f"optimizer/weight_norm/{part}": norm(parameters) for part, parameters in parts.items()}
        | {f"optimizer/update_norm/{part}": norm([shrunk[p] - p for p in ps]) for part, ps in parts.items()},
    }


def norm(tensors: list[Any]) -> float:
    return float(sum(tensor.detach().double().square().sum() for tensor in tensors).sqrt())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.replicate}x{layout.efsdp}x{layout.ep}")
def test_every_layout_takes_the_steps_of_one_rank(layout: Layout, tmp_path: Path) -> None:
    mp.start_processes(_train, args=(layout, tmp_path), nprocs=layout.ranks, start_method="fork")
    expected = on_one_rank()
    for rank in range(layout.ranks):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["weights"].keys() == expected["weights"].keys()
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-6, atol=1e-7, msg=name)
        torch.testing.assert_close(found["gradients"], expected["gradients"], rtol=1e-6, atol=0)
        assert found["norms"] == pytest.approx(expected["norms"], rel=1e-5)
        if rank:
            assert found["norms"] == torch.load(tmp_path / "0.pt")["norms"]  # to the bit on every rank
