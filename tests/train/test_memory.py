"""The memory that `brickyard plan` predicts, held against counts of what models hold and keep."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from composer.core import Precision
from composer.distributed.activation_checkpointing import apply_ac
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, AttentionImplementation, ModelConfig
from model.ffn_config import FFNConfig
from train.layout import Layout
from train.memory.activations import kept_activations, outer_activations
from train.memory.parameters import parameter_bytes as predicted_parameters
from train.memory.work import Work
from train.parallel import parameter_bytes, shard
from train.recipe import ParallelConfig

SAMPLES, LENGTH = 2, 96
MODEL = ModelConfig(
    d_model=64,
    n_heads=4,
    n_layers=3,
    max_seq_len=LENGTH,
    vocab_size=128,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=48, moe_num_experts=4, moe_top_k=2, uniform_expert_assignment=True),
)
OTHERS = {
    "plain": MODEL,
    "one key head, no clip": replace(MODEL, attn_config=AttentionConfig()),
    "as many key heads": replace(MODEL, attn_config=AttentionConfig(kv_n_heads=4, clip_qkv=8.0)),
    "eager": replace(MODEL, attn_implementation=AttentionImplementation.eager),
    "documents apart": replace(MODEL, attend_across_documents=False),
    "dropout": replace(MODEL, resid_pdrop=0.1, emb_pdrop=0.1),
    "attention dropout": replace(MODEL, attn_config=AttentionConfig(kv_n_heads=2, attn_pdrop=0.1)),
    "jitter": replace(MODEL, ffn_config=replace(MODEL.ffn_config, moe_jitter_eps=0.01)),
    "dense first": replace(MODEL, ffn_config=replace(MODEL.ffn_config, first_k_dense_replace=2)),
    "wide experts": replace(MODEL, ffn_config=replace(MODEL.ffn_config, ffn_hidden_size=256)),
}

UNEVEN = replace(MODEL, vocab_size=131, tie_word_embeddings=True)
SHARDED = {
    "1 rank": (MODEL, Layout(1, 1, 1)),
    "fsdp": (MODEL, Layout(1, 8, 1)),
    "uneven": (UNEVEN, Layout(1, 7, 1)),
    "more ranks than rows": (MODEL, Layout(1, 512, 1)),
    "ep": (MODEL, Layout(1, 1, 4)),
    "efsdp and ep": (OTHERS["dense first"], Layout(1, 4, 2)),
    "replicas": (MODEL, Layout(3, 2, 1)),
    "all three, uneven": (UNEVEN, Layout(2, 5, 2)),
}


def work_of(model: ModelConfig, again: bool = False, ep: int = 1) -> Work:
    parallel = ParallelConfig(expert_parallel=ep, activation_checkpointing=again)
    return Work(model, parallel, Layout(1, 1, ep), SAMPLES, LENGTH, 1, 4, gpu=False)


def predicted(work: Work) -> int:
    """With the head's gradients, which autograd keeps too."""
    head = work.stream + 4 * work.model.vocab_size * work.model.d_model
    return outer_activations(work) + head + sum(kept_activations(work, n) for n in range(work.model.n_layers))


class Kept:
    """The storages that are kept from forward to backward, each once, without the parameters'."""

    def __init__(self, model: nn.Module) -> None:
        whole = (p.to_local() if isinstance(p, DTensor) else p for p in model.parameters())
        self.parameters = {parameter.untyped_storage().data_ptr() for parameter in whole}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.parameters:
            self.storages[storage.data_ptr()] = storage
        return tensor

    def add_all(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def kept_bytes(config: ModelConfig, again: bool = False, ep_mesh: Any = None) -> int:
    """Counted: what a forward pass with loss leaves behind."""
    model = DbrxComposerModel(config, ["web"], 0)
    if ep_mesh is not None:
        for block in model.model.transformer.blocks:
            block.ffn.experts.parallelise(ep_mesh)
    if again:
        apply_ac(model, True, False, model.model.activation_checkpointing_fn)
    kept = Kept(model)
    for block in model.model.transformer.blocks:
        if again:  # its input is kept beside what autograd saves
            block.register_forward_pre_hook(lambda _, inputs: kept.add_all(inputs))
    tokens = torch.randint(1, config.vocab_size, (SAMPLES, LENGTH))
    tokens[:, 30::30] = 0
    batch = {"tokens": tokens, "domain": torch.zeros(SAMPLES, dtype=torch.int64)}
    with torch.autograd.graph.saved_tensors_hooks(kept.add, lambda tensor: tensor):
        outputs = model(batch)
        loss = model.loss(outputs, batch)["total"]
    for routing in outputs.routings:
        kept.add_all(routing)
    found = kept.bytes
    loss.backward()
    return found


@pytest.mark.parametrize("again", [False, True], ids=["all", "checkpointed"])
@pytest.mark.parametrize("case", OTHERS)
def test_activations_are_those_that_autograd_keeps(case: str, again: bool) -> None:
    assert predicted(work_of(OTHERS[case], again)) == pytest.approx(kept_bytes(OTHERS[case], again), rel=0.1)


def _held(_: int, file: Path) -> None:
    """As rank 0 of many that are not there: nothing is sent."""
    held = {}
    for name, (config, layout) in SHARDED.items():
        dist.init_process_group("fake", rank=0, world_size=layout.ranks, store=FakeStore())
        model = DbrxComposerModel(config, ["web"], 0, device="meta")
        shard(model, Precision.FP32, ParallelConfig(), layout)
        held[name] = parameter_bytes(model)
        dist.destroy_process_group()
    torch.save(held, file)


def test_parameters_are_those_of_the_shards(tmp_path: Path) -> None:
    mp.start_processes(_held, args=(tmp_path / "held",), nprocs=1, start_method="fork")
    held = torch.load(tmp_path / "held")
    for name, (config, layout) in SHARDED.items():
        work = replace(work_of(config), layout=layout)
        assert predicted_parameters(work) == held[name], name


def _kept_with_ep(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2, store=dist.FileStore(str(folder / "store"), 2))
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("ep",))
    torch.save([kept_bytes(MODEL, again, mesh) for again in (False, True)], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_activations_where_ranks_share_the_experts_out(tmp_path: Path) -> None:
    mp.start_processes(_kept_with_ep, args=(tmp_path,), nprocs=2, start_method="fork")
    for rank in range(2):
        for again, kept in zip((False, True), torch.load(tmp_path / f"{rank}.pt"), strict=True):
            assert predicted(work_of(MODEL, again, ep=2)) == pytest.approx(kept, rel=0.1)
