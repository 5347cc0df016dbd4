"""The loss head against `cross_entropy` on all logits."""

import pytest
import torch

from model import head
from model.head import IGNORED, LanguageModelHead


def _case(dtype=torch.float32):
    torch.manual_seed(0)
    lm_head = LanguageModelHead(16, 50).to(dtype)
    x = torch.randn(3, 11, 16, dtype=dtype, requires_grad=True)
    targets = torch.randint(50, (3, 11))
    targets[1, 4:9] = IGNORED
    return lm_head, x, targets


@pytest.mark.parametrize("chunk_logits", [1, 350, 2**21])
def test_loss_and_gradients(chunk_logits, monkeypatch):
    monkeypatch.setattr(head, "_CHUNK_LOGITS", chunk_logits)
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
