"""Sharded by FSDP2 over two ranks, as `fsdp_wrap_fn` says, the model gives the gradients of one process."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from model.config import AttentionConfig, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.ffn_config import FFNConfig
from model.head import IGNORED
from model.router import load_balancing_loss

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=12,
    vocab_size=50,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, moe_top_k=2),
)


def _backward(model: DbrxForCausalLM, tokens: torch.Tensor) -> None:
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    output = model(tokens, targets)
    (output.token_loss.mean + 0.01 * load_balancing_loss(output.routings)).backward()


def _rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    model = DbrxForCausalLM(CONFIG)
    mesh = init_device_mesh("cpu", (2,))
    for module in [m for m in model.modules() if model.fsdp_wrap_fn(m)]:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    _backward(model, torch.load(folder / "tokens.pt")[2 * rank : 2 * rank + 2])
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    gradients = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    if rank == 0:
        torch.save(gradients, folder / "gradients.pt")
    dist.destroy_process_group()


def test_gradients_of_two_ranks_are_the_mean_of_theirs(tmp_path: Path):
    tokens = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(0))
    torch.save(tokens, tmp_path / "tokens.pt")
    mp.start_processes(_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    gradients = torch.load(tmp_path / "gradients.pt")
    model = DbrxForCausalLM(CONFIG)
    for half in tokens.split(2):
        _backward(model, half)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad / 2, rtol=1e-5, atol=1e-8, msg=name)
