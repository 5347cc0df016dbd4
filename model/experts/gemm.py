"""The GEMM of the `megablocks` experts: one matrix product for each expert, over its rows. Chosen here, and only here.

A grouped GEMM multiplies a [S, X], rows in order of experts, with b: without `trans_a` b is [E, X, Y] (with `trans_b`
[E, Y, X]) and the result [S, Y]; with `trans_a` b is [S, Y] and the result [E, X, Y].
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ExpertsGemm
from model.errors import MissingPackageError

Gemm = Callable[..., Tensor]  # (a, b, groups, trans_a, trans_b)


class GroupedGemm(NamedTuple):
    """A grouped GEMM, and what it wants to know of the groups."""

    groups: Callable[[Tensor, torch.device], Tensor]  # tokens_per_expert_E, device -> groups
    multiply: Gemm


def choose_gemm(choice: ExpertsGemm) -> ExpertsGemm:
    """What `auto` stands for, and whether it can be had.

    `auto` is `grouped_mm`, which comes with PyTorch and keeps the group sizes on the device. Its kernels are written
    for Hopper and newer; on an older GPU it is `grouped_gemm` where that is installed. Raises MissingPackageError, one
    sentence, if the package that was asked for by name is not there.
    """
    if choice is ExpertsGemm.auto:
        old = torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0)
        return ExpertsGemm.grouped_gemm if old and _installed("grouped_gemm") else ExpertsGemm.grouped_mm
    if choice is ExpertsGemm.grouped_gemm and not _installed("grouped_gemm"):
        raise MissingPackageError("experts_gemm: grouped_gemm is not installed; install it, or say grouped_mm")
    if choice is ExpertsGemm.stk:
        _expect_stk()
    return choice


def grouped_gemm(choice: ExpertsGemm) -> GroupedGemm:
    """The functions of a choice that `choose_gemm` made; `stk` has none, for it multiplies sparse matrices."""
    if choice is ExpertsGemm.grouped_gemm:
        from grouped_gemm import backend

        return GroupedGemm(_sizes_on_host, backend.gmm)
    return GroupedGemm(stack_ends, grouped_mm)


def stack_ends(tokens_per_expert_E: Tensor, device: torch.device) -> Tensor:
    """int32 [E]: where the rows of each expert end. The CPU is not asked."""
    return tokens_per_expert_E.to(device).cumsum(0).int()


def grouped_mm(a: Tensor, b: Tensor, ends_E: Tensor, trans_a: bool = False, trans_b: bool = False) -> Tensor:
    """PyTorch's grouped GEMM, differentiable."""
    if not len(a):  # no rows at all, as on a rank that is sent none
        return a.t() @ b + b.new_zeros(len(ends_E), 1, 1) if trans_a else a @ (b[0].t() if trans_b else b[0])
    if not trans_a:
        return nn.functional.grouped_mm(a, b.transpose(-2, -1) if trans_b else b, offs=ends_E)
    product = nn.functional.grouped_mm(a.t(), b, offs=ends_E)
    if a.is_cuda and torch.cuda.get_device_capability(a.device) >= (10, 0):
        # On Blackwell a group without rows is left unwritten (pytorch/pytorch#172439); on Hopper it is 0.
        product = product.masked_fill(ends_E.diff(prepend=ends_E.new_zeros(1))[:, None, None] == 0, 0.0)
    return product


def _sizes_on_host(tokens_per_expert_E: Tensor, device: torch.device) -> Tensor:
    """int64 [E] on the CPU, where `grouped_gemm` wants it: this waits for the device."""
    return tokens_per_expert_E.cpu().long()


def _expect_stk() -> None:
    if not _installed("stk"):
        raise MissingPackageError("experts_gemm: stk is not installed; install stanford-stk, or say grouped_mm")
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 2):
        limit = f"MegaBlocks runs stk with Triton below 3.2 only, and found {triton.__version__}"
        raise MissingPackageError(f"experts_gemm: {limit}; say grouped_mm")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
