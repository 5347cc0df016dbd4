"""Activation checkpointing: less is kept, and nothing else changes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from composer.core import Precision

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from model.initialise import initialise, materialise
from train.parallel import shard
from train.recipe import ParallelConfig

from metric_rows import rows
from processes import brickyard

ALL_HELD_OUT = "eval_samples=null"  # some of them hold a document's end
CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=3,
    max_seq_len=64,
    vocab_size=50,
    resid_pdrop=0.1,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0, attn_pdrop=0.1),
    ffn_config=FFNConfig(ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2, moe_jitter_eps=0.05),
    attend_across_documents=False,
)


def _step(activation_checkpointing: bool) -> dict[str, Any]:
    """Loss, gradients and statistics of a microbatch, how often each attention ran, and the bytes kept for backward."""
    model = DbrxComposerModel(CONFIG, ["web"], 0, device="meta")
    shard(model, Precision.FP32, ParallelConfig(activation_checkpointing=activation_checkpointing))
    materialise(model, "cpu")
    initialise(model.model, CONFIG, 7)
    attention_runs: list[str] = []
    for name, module in model.named_modules():
        if name.endswith("attn"):
            module.register_forward_hook(lambda *_, name=name: attention_runs.append(name))
    batch = {
        "tokens": torch.randint(50, (4, 64), generator=torch.Generator().manual_seed(1)),
        "domain": torch.zeros(4, dtype=torch.int64),
    }
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(model(batch), batch)["total"]
    bytes_kept = sum(kept)
    loss.backward()
    return {
        "loss": loss.detach(),
        "gradients": [p.grad.full_tensor() for p in model.parameters()],
        "statistics": vars(model.step_statistics),
        "attention_runs": len(attention_runs),
        "bytes_kept": bytes_kept,
        "names": sorted(initial.replace("_checkpoint_wrapped_module.", "") for initial, _ in model.named_parameters()),
    }


def _both(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    torch.save([_step(False), _step(True)], folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_a_step_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Dropout and jitter included, on two ranks; and each block does run twice, and keeps less."""
    mp.start_processes(_both, args=(2, tmp_path), nprocs=2, start_method="fork")
    for rank in range(2):
        plain, again = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(plain["loss"], again["loss"]) and plain["names"] == again["names"]
        assert all(torch.equal(a, b) for a, b in zip(plain["gradients"], again["gradients"], strict=True))
        assert all(torch.equal(plain["statistics"][key], again["statistics"][key]) for key in plain["statistics"])
        assert (plain["attention_runs"], again["attention_runs"]) == (3, 6)
        assert again["bytes_kept"] < 0.3 * plain["bytes_kept"]


@pytest.fixture(scope="module")
def plain(workshop: SimpleNamespace) -> Path:
    log = workshop.root / "plain.log"
    assert brickyard(["train", str(workshop.recipe), "run_name=plain", ALL_HELD_OUT], log, ranks=2) == [0, 0], (
        log.read_text()
    )
    return workshop.root / "runs" / "plain"


def test_a_run_is_the_same_bit_for_bit_and_goes_on_without(workshop: SimpleNamespace, plain: Path) -> None:
    log = workshop.root / "again.log"
    command, again = ["train", str(workshop.recipe), "run_name=again", ALL_HELD_OUT], workshop.root / "runs" / "again"
    assert brickyard([*command, "parallel.activation_checkpointing=true"], log, ranks=2) == [0, 0], log.read_text()
    assert rows(again) == rows(plain)
    assert brickyard([*command, "max_duration=13ba"], log, ranks=2) == [0, 0], log.read_text()
    assert rows(again)[-1]["batch"] == 13


def test_documents_apart_in_a_run(workshop: SimpleNamespace, plain: Path) -> None:
    log = workshop.root / "apart.log"
    apart = ["train", str(workshop.recipe), "run_name=apart", "model.attend_across_documents=false", ALL_HELD_OUT]
    assert brickyard(apart, log, ranks=2) == [0, 0], log.read_text()
    apart_rows, across = rows(workshop.root / "runs" / "apart"), rows(plain)
    losses = [row["loss/cross_entropy"] for row in apart_rows if "loss/cross_entropy" in row]
    assert len(losses) == 12 and losses[-1] < losses[0]
    # The few samples that are trained on may hold no document's end; those that are held out do.
    assert [row["eval/domain/loss/prose"] for row in apart_rows if "eval/domain/loss/prose" in row] != [
        row["eval/domain/loss/prose"] for row in across if "eval/domain/loss/prose" in row
    ]
