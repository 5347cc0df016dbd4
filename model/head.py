"""From the last hidden state to logits, or straight to the loss without ever holding all logits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.precision import as_autocast, without_autocast

IGNORED = -100  # the target of a position that is not counted


class TokenLoss(NamedTuple):
    """Cross-entropy in nats."""

    mean: Tensor  # fp32 scalar, over the counted targets; 0 where there is none; gradients flow through it
    loss_BT: Tensor  # fp32, per position, 0 where the target is ignored; detached
    counted_BT: Tensor  # bool, where it is not ignored


class LanguageModelHead(nn.Linear):
    """The projection to the vocabulary, [V, D], without bias."""

    def __init__(self, d_model: int, vocab_size: int) -> None:
        super().__init__(d_model, vocab_size, bias=False)

    def forward(self, x_BTD: Tensor, targets_BT: Tensor | None = None) -> Tensor | TokenLoss:  # type: ignore[override]
        """Logits [B, T, V] without targets; with targets (int64, `IGNORED` where not counted) their cross-entropy."""
        if targets_BT is None:
            return super().forward(x_BTD)
        x_ND, weight_VD = as_autocast(x_BTD.flatten(0, 1), self.weight)
        with without_autocast(x_ND):
            mean, loss_N = _LinearCrossEntropy.apply(x_ND, weight_VD, targets_BT.flatten(), torch.is_grad_enabled())
        return TokenLoss(mean, loss_N.view(targets_BT.shape), targets_BT != IGNORED)


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of softmax(x @ weight.T), chunk by chunk, in fp32.

    The gradient of a mean's every logit is known as soon as its loss is, so it is used while the chunk is in cache, and
    backward only scales. On 2 cores of an AMD EPYC, fp32, 4,096 tokens, d 128, vocabulary 8,192, forward and backward:
    197 ms, against 313 ms for all logits and `cross_entropy` (best of 4). benchmarks/long_context.py says what memory
    it saves.

    No library's does: Liger's and Apple's cut_cross_entropy run on GPUs only, and give either a mean or the loss of
    each position, while we train on the one and need the other for the losses by domain (Liger's gradients were wrong
    without a reduction, its issue 968). `torch.nn.functional.linear_cross_entropy` is chunked on any device; it comes
    with torch 2.13, and this class should go when the pin moves, if it gives both.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, grad_enabled: bool
    ) -> tuple[Tensor, Tensor]:
        counted_N = targets_N != IGNORED
        scale = 1.0 / counted_N.sum().clamp(min=1)
        needs_grad = grad_enabled and any(ctx.needs_input_grad)  # the latter is true under no_grad as well
        loss_N = torch.empty(len(x_ND), dtype=torch.float32, device=x_ND.device)
        grad_x_ND = torch.empty_like(x_ND) if needs_grad else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_grad else None
        rows = _chunk_rows(weight_VD)
        for start in range(0, len(x_ND), rows):
            chunk = slice(start, start + rows)
            counted, index = counted_N[chunk], targets_N[chunk].clamp(min=0)[:, None]
            log_p = torch.log_softmax(x_ND[chunk] @ weight_VD.T, dim=-1, dtype=torch.float32)
            loss_N[chunk] = log_p.gather(1, index).squeeze(1) * -counted.float()
            if grad_x_ND is None or grad_weight_VD is None:
                continue
            grad = log_p.exp_().scatter_add_(1, index, log_p.new_full(index.shape, -1.0))
            grad = grad.mul_((counted * scale)[:, None]).to(x_ND.dtype)
            torch.mm(grad, weight_VD, out=grad_x_ND[chunk])
            _add_product(grad_weight_VD, grad.T, x_ND[chunk])
        ctx.save_for_backward(grad_x_ND, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(loss_N)
        return loss_N.sum() * scale, loss_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x_ND, grad_weight_VD = ctx.saved_tensors
        return grad_x_ND * grad_mean, (grad_weight_VD * grad_mean).to(ctx.weight_dtype), None, None


def _chunk_rows(weight_VD: Tensor) -> int:
    """Positions whose logits are held at a time.

    On a CPU 2 M logits, 8 MiB of fp32 that stay in a core's cache, but 128 positions at least: each chunk reads the
    whole weight, and at a vocabulary of 100,352 that costs more than the cache saves (20 positions 2.51 s, 128 1.41 s,
    512 1.35 s for 512 tokens of d 256). On a GPU 128 M, half a GiB of fp32, so that the products fill it.
    """
    if weight_VD.is_cuda:
        return max(128, 2**27 // len(weight_VD))
    return max(128, 2**21 // len(weight_VD))


def _add_product(sum_32: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a @ b to an fp32 sum, in one operation where the dtypes allow it."""
    if a.dtype == sum_32.dtype:
        sum_32.addmm_(a, b)
    else:
        sum_32.add_(a @ b)
