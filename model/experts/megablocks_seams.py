"""PyTorch in the place of the two compiled extensions that MegaBlocks 0.10 asks for.

Python has one `sys.modules`, so this is a change to the process; it is made once, and only for extensions that are not
installed. What each replacement must do was read from MegaBlocks' callers in `megablocks/ops/` and
`megablocks/layers/`. None of them waits for the device.
"""

import importlib.util
import sys
import types
import warnings

import torch
from torch import Tensor

from model.experts.gemm import grouped_mm, stack_ends


def install_seams() -> None:
    """Makes `import megablocks` work without compiled code."""
    if "megablocks_ops" not in sys.modules and importlib.util.find_spec("megablocks_ops") is None:
        sys.modules["megablocks_ops"] = _operations()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Grouped GEMM not available", which is what follows
        import megablocks.grouped_gemm_util as seam
    if not seam.grouped_gemm_is_available():
        seam.backend = seam.ops = types.SimpleNamespace(gmm=_gmm)
        seam._grouped_gemm_is_available = True


def _gmm(
    a: Tensor, b: Tensor, batch_sizes: Tensor, trans_a: bool = False, trans_b: bool = False, c: Tensor | None = None
) -> Tensor:
    """What MegaBlocks' own layers call; differentiable. The result is also copied into `c` if given."""
    product = grouped_mm(a, b, stack_ends(batch_sizes, a.device), trans_a, trans_b)
    return product if c is None else c.copy_(product)


def _operations() -> types.ModuleType:
    """The functions of `megablocks_ops` that the dropless paths call; results go into `out` as there."""
    module = types.ModuleType("megablocks_ops", "PyTorch equivalents, from model.experts.megablocks_seams")

    def sort(x: Tensor, end_bit: int, x_out: Tensor, indices_out: Tensor) -> None:
        values, indices = x.sort(stable=True)
        x_out.copy_(values)
        indices_out.copy_(indices)

    def histogram(x: Tensor, n_bins: int) -> Tensor:
        # Not bincount: on a GPU it waits for the largest value.
        counts = torch.zeros(int(n_bins), dtype=torch.int32, device=x.device)
        return counts.index_add_(0, x.int(), torch.ones_like(x, dtype=torch.int32))

    def inclusive_cumsum(x: Tensor, dim: int, out: Tensor) -> None:
        out.copy_(x.cumsum(dim))

    def exclusive_cumsum(x: Tensor, dim: int, out: Tensor) -> None:
        out.copy_(x.cumsum(dim) - x)

    def replicate_forward(x: Tensor, bins: Tensor, out: Tensor) -> None:
        """Column i of x as often as bins[i] - bins[i - 1] says."""
        times = bins.diff(prepend=bins.new_zeros(1))
        out.copy_(x.repeat_interleave(times, dim=1, output_size=out.shape[1]))

    def indices(padded_bins: Tensor, block: int, block_rows: int, block_columns: int, out: Tensor) -> None:
        """The block columns of each block row of a block-diagonal matrix: those of the row's expert."""
        row = torch.arange(block_rows, device=padded_bins.device)
        expert = torch.searchsorted(padded_bins // block, row, right=True)
        column = torch.arange(block_columns, device=padded_bins.device)
        out.copy_((expert[:, None] * block_columns + column).flatten())

    for function in (sort, histogram, inclusive_cumsum, exclusive_cumsum, replicate_forward, indices):
        setattr(module, function.__name__, function)
    return module
