"""silu(gate) * up, forward and backward, each one pass over memory, in Triton.

PyTorch's own operations take two passes forward and five backward over [S, F] tensors, and they are as large as
anything in the layer. Arithmetic is fp32 whatever the dtype.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape and dtype, contiguous. Not differentiable: see `swiglu_backward`."""
    hidden = torch.empty_like(gate)
    _forward[(triton.cdiv(gate.numel(), BLOCK),)](gate, up, hidden, gate.numel(), BLOCK=BLOCK)
    return hidden


def swiglu_backward(grad_hidden: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(hidden, gradient of gate, gradient of up). The gradient of gate takes the place of `grad_hidden`."""
    hidden, grad_up = torch.empty_like(gate), torch.empty_like(gate)
    grid = (triton.cdiv(gate.numel(), BLOCK),)
    _backward[grid](grad_hidden, gate, up, hidden, grad_up, gate.numel(), BLOCK=BLOCK)
    return hidden, grad_hidden, grad_up


@triton.jit
def _forward(gate_ptr, up_ptr, hidden_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_ptr + at, mask=at < n).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < n).to(tl.float32)
    hidden = gate * tl.sigmoid(gate) * up
    tl.store(hidden_ptr + at, hidden.to(hidden_ptr.dtype.element_ty), mask=at < n)


@triton.jit
def _backward(grad_ptr, gate_ptr, up_ptr, hidden_ptr, grad_up_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    grad = tl.load(grad_ptr + at, mask=at < n).to(tl.float32)
    gate = tl.load(gate_ptr + at, mask=at < n).to(tl.float32)
    up = tl.load(up_ptr + at, mask=at < n).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    grad_gate = grad * up * (sigmoid + silu * (1.0 - sigmoid))
    tl.store(hidden_ptr + at, (silu * up).to(hidden_ptr.dtype.element_ty), mask=at < n)
    tl.store(grad_up_ptr + at, (grad * silu).to(grad_up_ptr.dtype.element_ty), mask=at < n)
    tl.store(grad_ptr + at, grad_gate.to(grad_ptr.dtype.element_ty), mask=at < n)
