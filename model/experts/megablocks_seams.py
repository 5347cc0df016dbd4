"""PyTorch in the place of the two compiled extensions that MegaBlocks 0.10 asks for.

Python has one `sys.modules`, so this is a change to the process; it is made once, and only for extensions that are not
installed. What each replacement must do was read from MegaBlocks' callers in
`megablocks/ops/` and `megablocks/layers/glu.py`.
"""

import importlib.util
import sys
import types
import warnings

from torch import Tensor, nn


def install_seams() -> None:
    """Makes `import megablocks` work without compiled code."""
    if importlib.util.find_spec("megablocks_ops") is None:
        sys.modules["megablocks_ops"] = _operations()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Grouped GEMM not available", which is what follows
        import megablocks.grouped_gemm_util as seam
    if not seam.grouped_gemm_is_available():
        seam.backend = seam.ops = types.SimpleNamespace(gmm=grouped_gemm)
        seam._grouped_gemm_is_available = True


def grouped_gemm(
    a: Tensor, b: Tensor, batch_sizes_E: Tensor, trans_a: bool = False, trans_b: bool = False, c: Tensor | None = None
) -> Tensor:
    """One matrix product for each expert, over its rows of `a`; differentiable.

    Without trans_a: a is [S, X], b is [E, X, Y] (with trans_b [E, Y, X]) and the result [S, Y].
    With trans_a: a is [S, X], b is [S, Y] and the result [E, X, Y]. The result is also copied into `c` if given.
    """
    ends_E = batch_sizes_E.to(a.device).cumsum(0).int()
    if trans_a:
        product = nn.functional.grouped_mm(a.t(), b, offs=ends_E)
    else:
        product = nn.functional.grouped_mm(a, b.transpose(-2, -1) if trans_b else b, offs=ends_E)
    return product if c is None else c.copy_(product)


def _operations() -> types.ModuleType:
    """The four functions of `megablocks_ops` that the grouped dropless path calls; results go into `out` as there."""
    module = types.ModuleType("megablocks_ops", "PyTorch equivalents, from model.experts.megablocks_seams")

    def sort(x: Tensor, end_bit: int, x_out: Tensor, indices_out: Tensor) -> None:
        values, indices = x.sort(stable=True)
        x_out.copy_(values)
        indices_out.copy_(indices)

    def histogram(x: Tensor, n_bins: int) -> Tensor:
        return x.bincount(minlength=int(n_bins)).int()

    def inclusive_cumsum(x: Tensor, dim: int, out: Tensor) -> None:
        out.copy_(x.cumsum(dim))

    def exclusive_cumsum(x: Tensor, dim: int, out: Tensor) -> None:
        out.copy_(x.cumsum(dim) - x)

    for function in (sort, histogram, inclusive_cumsum, exclusive_cumsum):
        setattr(module, function.__name__, function)
    return module
