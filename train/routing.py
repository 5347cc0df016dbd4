"""How the tokens of each domain spread over the experts of each layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Pictures of shares go from 1 / 2^REACH to 2^REACH of an equal share, on a logarithmic scale.
REACH = 2.0


def relative_share(tokens_LME: NDArray[np.int64]) -> NDArray[np.float64]:
    """[L, M, E]: an expert's share of a domain's tokens in a layer, where 1 is an equal share; NaN without a token."""
    total_LM1 = tokens_LME.sum(axis=2, keepdims=True)
    shares = np.full(tokens_LME.shape, np.nan)
    return np.divide(tokens_LME * tokens_LME.shape[2], total_LM1, out=shares, where=total_LM1 > 0)


def on_scale(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """From -1 (1 / 2^REACH of an equal share, or less) through 0 (an equal share) to 1 (2^REACH, or more)."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log2(share) / REACH, -1, 1)
