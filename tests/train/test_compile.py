"""`parallel.compile`: what torch.compile makes of a model computes the same, in one graph for each part."""

import pytest
import torch
import torch._dynamo as dynamo
import torch.multiprocessing as mp
from torch import Tensor

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from train.parallel import compile_dense_parts

CONFIG = ModelConfig(
    d_model=32,
    n_heads=4,
    n_layers=3,
    vocab_size=40,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=16, moe_num_experts=4, first_k_dense_replace=1),
)


def _step(compiled: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients, by the compiler's own steps but without its C++, which takes minutes."""
    model = DbrxComposerModel(CONFIG, ["web"], 0, seed=7)
    if compiled:
        compile_dense_parts(model, backend="aot_eager")
    tokens = torch.randint(1, 40, (2, 12), generator=torch.Generator().manual_seed(1))
    batch = {"tokens": tokens, "domain": torch.zeros(2, dtype=torch.int64)}
    loss = model.loss(model(batch), batch)["total"]
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_losses_and_gradients_are_the_same() -> None:
    """In a process of its own: the compiler starts autograd's threads, and what is forked from here could use none."""
    mp.start_processes(_compare, nprocs=1, start_method="fork")


def _compare(_: int) -> None:
    dynamo.utils.counters.clear()  # of what was compiled before the fork
    (loss, gradients), (plain_loss, plain_gradients) = _step(True), _step(False)
    torch.testing.assert_close(loss, plain_loss, rtol=0, atol=1e-6)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        assert gradients[name] == pytest.approx(gradient, abs=1e-7), name
    assert not dynamo.utils.counters["graph_break"]
    assert dynamo.utils.counters["stats"]["unique_graphs"] == 2  # attention and norms; the dense unit
