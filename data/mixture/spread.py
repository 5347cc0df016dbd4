"""The order of the domains inside leaves: which of the samples between two settled places is which domain's.

Shapes: N leaves, M domains, L samples of the longest leaf.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Targets = NDArray[np.float64]


def spread(
    target: Targets, gains: Callable[[int], Targets], left: Counts, right: Counts
) -> tuple[NDArray[np.int32], Counts]:
    """(domain [N, L], count of that domain before the sample [N, L]) of every sample of every leaf.

    Each sample goes to a domain that would be a whole sample behind its target if it had to wait for the next one, or
    else to the one that is furthest behind, among those that have not had their count of the leaf yet.

    Args:
        target: [N, M] the targets before each leaf.
        gains: what the k-th sample of each leaf, from 0, adds to them, [N, M].
        left: [N, M] the counts before each leaf.
        right: [N, M] the counts after it. A leaf shorter than the longest fills up with domain 0.
    """
    length = int((right - left).sum(axis=1).max(initial=0))
    leaf = np.arange(len(left))
    domain = np.zeros((length, len(left)), np.int32)
    before = np.zeros((length, len(left)), np.int64)
    count = left.copy()
    behind = np.where(right > left, target - left, -np.inf)
    gain = gains(0)
    for step in range(length):
        behind += gain
        gain = gains(step + 1)
        chosen = np.argmax(behind + (behind + gain > 1), axis=1)
        domain[step] = chosen
        before[step] = had = count[leaf, chosen]
        count[leaf, chosen] = had + 1
        full = had + 1 >= right[leaf, chosen]
        behind[leaf, chosen] = np.where(full, -np.inf, behind[leaf, chosen] - 1)
    return domain.T, before.T
