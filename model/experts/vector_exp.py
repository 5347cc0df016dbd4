"""PyTorch's exp on CPUs with AVX-512, which forgets how to be fast."""

import torch
from torch import Tensor

_OVERFLOWING = torch.full((64,), -1000.0)  # as many as four vectors hold


def keep_exp_fast(x: Tensor) -> None:
    """Overflow exp once, in 2 microseconds, if `x` is on a CPU: before each stretch of work that takes many.

    Sleef's exp, which silu and sigmoid take, loads infinity masked by which numbers overflow. While the mask is empty
    the page with that constant is not touched: one that is not mapped never comes to be, and one whose mark of use was
    cleared (Linux's DAMON and idle page tracking do so again and again) stays unmarked. The processor takes some
    hundred cycles to find that out, in each vector anew: silu took 3.5 times as long on an Intel Xeon, 10 to 19 times
    on an AMD EPYC.
    """
    if x.device.type == "cpu":
        torch.sigmoid(_OVERFLOWING)
