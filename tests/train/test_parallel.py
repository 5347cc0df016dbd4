"""Each rank has memory for its own shards, and never for the model."""

import ctypes
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from composer.core import Precision
from composer.distributed import prepare_distributed
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from model.flops import count_parameters
from model.initialise import initialise, materialise
from model.router import load_balancing_loss
from train.layout import Layout
from train.parallel import build_meshes, parameter_bytes, shard

CONFIG = ModelConfig(
    d_model=512,
    n_heads=8,
    n_layers=4,
    vocab_size=8192,
    ffn_config=FFNConfig(ffn_hidden_size=512, moe_num_experts=8),
)
DBRX_132B = ModelConfig(
    d_model=6144,
    n_heads=48,
    n_layers=40,
    max_seq_len=32768,
    vocab_size=100352,
    attn_config=AttentionConfig(kv_n_heads=8, clip_qkv=8.0, rope_theta=500000.0),
    ffn_config=FFNConfig(ffn_hidden_size=10752, moe_num_experts=16, moe_top_k=4),
)
SMALL = ModelConfig(
    d_model=32, n_heads=4, n_layers=1, vocab_size=40, ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4)
)
MIB = 2**20


def _model(config: ModelConfig, device: str = "meta") -> DbrxComposerModel:
    return DbrxComposerModel(config, ["web"], 0, seed=7, device=device)


def _resident(name: str) -> int:
    """Bytes: VmRSS is the process's memory now, VmHWM the most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _shard_and_draw(config: ModelConfig, precision: Precision = Precision.FP32) -> DbrxComposerModel:
    model = _model(config)
    shard(model, precision)
    materialise(model, "cpu")
    initialise(model.model, config, 7)
    return model


def _measure(rank: int, ranks: int, folder: Path, whole_first: bool) -> None:
    """Writes by how much a rank's memory grew at most, and how much it holds of the parameters."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    _shard_and_draw(SMALL)  # what the libraries keep for themselves
    ctypes.CDLL(None).malloc_trim(0)  # what the parent's tests freed would be taken again without growth
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    if whole_first:
        model = _model(CONFIG, "cpu")
        shard(model, Precision.FP32)
    else:
        model = _shard_and_draw(CONFIG)
    torch.save((_resident("VmHWM") - before, parameter_bytes(model)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _peaks(ranks: int, folder: Path, whole_first: bool = False) -> list[int]:
    folder.mkdir()
    mp.start_processes(_measure, args=(ranks, folder, whole_first), nprocs=ranks, start_method="fork")
    peaks, held = zip(*(torch.load(folder / f"{rank}.pt") for rank in range(ranks)), strict=True)
    assert sum(held) == 4 * count_parameters(CONFIG).total
    return list(peaks)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to measure peak memory")
def test_no_rank_ever_holds_the_whole_model(tmp_path: Path) -> None:
    whole = 4 * count_parameters(CONFIG).total
    assert whole > 128 * MIB
    for ranks in (1, 2, 4):
        for peak in _peaks(ranks, tmp_path / str(ranks)):
            assert 0.95 * whole / ranks < peak < whole / ranks + 8 * MIB, f"{ranks} ranks: {peak / MIB:.1f} MiB"
    # The measure sees a model that is built whole and then sharded.
    assert min(_peaks(2, tmp_path / "whole", whole_first=True)) > whole


def _shard_132b(_: int, ranks: int, file: Path) -> None:
    """As rank 5 of many that are not there: nothing is sent."""
    dist.init_process_group("fake", rank=5, world_size=ranks, store=FakeStore())
    model = _model(DBRX_132B)
    shard(model, Precision.FP32)
    units = sum(isinstance(module, FSDPModule) for module in model.modules())
    torch.save((parameter_bytes(model), units), file)


def test_what_a_rank_of_512_holds_of_132b_is_known_without_memory(tmp_path: Path) -> None:
    mp.start_processes(_shard_132b, args=(512, tmp_path / "out.pt"), nprocs=1, start_method="fork")
    held, units = torch.load(tmp_path / "out.pt")
    assert units == 81  # the blocks, their routers, and what lies around them
    routers = 40 * 6144 * (1 - 16 / 512)  # 16 rows over 512 ranks: the first 16 have a whole one, the others none
    assert held == 4 * (131_596_523_520 / 512 + routers)


def _timeouts(rank: int, ranks: int, folder: Path) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    meshes = build_meshes(Layout(2, 1, 2), dist_timeout=33)
    groups = {group for mesh in meshes for group in mesh.get_all_groups()}
    found = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_every_group_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    mp.start_processes(_timeouts, args=(4, tmp_path), nprocs=4, start_method="fork")
    assert torch.load(tmp_path / "0.pt") == {33}


def _bf16(rank: int, ranks: int, folder: Path) -> None:
    """Writes the weights that the modules of a block compute with."""
    prepare_distributed._validate_precision = lambda *_: None  # stands in for a GPU: Composer has bf16 on those only
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    model = _shard_and_draw(SMALL, Precision.AMP_BF16)
    [block] = model.model.transformer.blocks
    used = {}

    def see_attention(module: nn.Module, _: object) -> None:
        used["attention"] = module.Wqkv.weight.detach().clone()

    def see_router(module: nn.Module, _: object) -> None:
        used["router"] = module.layer.weight.detach().clone()

    block.norm_attn_norm.attn.register_forward_pre_hook(see_attention)
    block.ffn.router.register_forward_pre_hook(see_router)
    tokens = torch.arange(10)[None] + rank
    with torch.autocast("cpu", torch.bfloat16):
        output = model.model(tokens, tokens)
    (output.token_loss.mean + load_balancing_loss(output.routings)).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    used["gradient"] = block.ffn.router.layer.weight.grad.full_tensor()
    torch.save(used, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_in_bf16_the_router_computes_with_its_fp32_weights(tmp_path: Path) -> None:
    mp.start_processes(_bf16, args=(2, tmp_path), nprocs=2, start_method="fork")
    block = "model.transformer.blocks.0"
    weights = _model(SMALL, "cpu").state_dict()
    for rank in range(2):
        used = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(used["router"], weights[f"{block}.ffn.router.layer.weight"])
        assert torch.equal(used["attention"], weights[f"{block}.norm_attn_norm.attn.Wqkv.weight"].bfloat16())
        assert used["gradient"].abs().sum() > 0
