"""The loss head against `cross_entropy` on all logits."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import head
from model.head import IGNORED, LanguageModelHead


def _case(dtype=torch.float32):
    torch.manual_seed(0)
    lm_head = LanguageModelHead(16, 50).to(dtype)
    x = torch.randn(3, 11, 16, dtype=dtype, requires_grad=True)
    targets = torch.randint(50, (3, 11))
    targets[1, 4:9] = IGNORED
    return lm_head, x, targets


@pytest.mark.parametrize("rows", [1, 7, 33, 128])
def test_loss_and_gradients(rows, monkeypatch):
    monkeypatch.setattr(head, "_chunk_rows", lambda weight: rows)
    lm_head, x, targets = _case()
    loss = lm_head(x, targets)
    wanted = torch.nn.functional.cross_entropy(
        lm_head(x).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    torch.testing.assert_close(loss.loss_BT.flatten(), wanted.detach())
    mean = wanted.sum() / 28
    torch.testing.assert_close(loss.mean, mean)
    inputs = (x, lm_head.weight)
    got, expected = (torch.autograd.grad(3 * m, inputs) for m in (loss.mean, mean))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_nothing_counted_is_zero_with_zero_gradients():
    lm_head, x, targets = _case()
    loss = lm_head(x, torch.full_like(targets, IGNORED))
    loss.mean.backward()
    assert loss.mean == 0 and x.grad.count_nonzero() == 0 and lm_head.weight.grad.count_nonzero() == 0


def test_no_gradients_are_worked_out_without_need(monkeypatch):
    lm_head, x, targets = _case()
    with torch.no_grad(), monkeypatch.context() as patched:
        patched.delattr(head, "_add_product")  # what a weight gradient would call
        without = lm_head(x, targets)
    assert not without.mean.requires_grad
    torch.testing.assert_close(without.mean, lm_head(x, targets).mean.detach())


def test_bfloat16_keeps_the_loss_in_fp32():
    lm_head, x, targets = _case(torch.bfloat16)
    loss = lm_head(x, targets)
    loss.mean.backward()
    assert loss.mean.dtype is torch.float32 and lm_head.weight.grad.dtype is torch.bfloat16
    torch.testing.assert_close(loss.mean, lm_head.float()(x.float(), targets).mean, rtol=0.01, atol=0)


def test_logits_are_never_held_all_at_once():
    """No tensor of the forward or the backward pass is larger than a chunk's logits, however many tokens there are."""
    vocabulary, tokens = 3000, 1500
    lm_head = LanguageModelHead(8, vocabulary)
    x = torch.randn(1, tokens, 8, requires_grad=True)
    targets = torch.randint(vocabulary, (1, tokens))
    with LargestTensor() as largest:
        lm_head(x, targets).mean.backward()
    rows = head._chunk_rows(lm_head.weight)
    assert rows < tokens / 2 and largest.numel == rows * vocabulary


class LargestTensor(TorchDispatchMode):
    """Notes the largest result of any operation."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out
