"""Which losses stand out: robust statistics over the newest steps, NumPy only.

The loss of a curriculum moves when its mixture does, and that is no fault. So a step is held against what the domains
that it drew usually lose: the median of each domain over the newest steps, in the step's own mixture. How far steps lie
from that is measured by the median absolute deviation, which the spikes themselves do not move.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.words import join_words

VERSION = 1
SIGMA = 1.4826  # standard deviation of a normal distribution, in median absolute deviations
LEAST_SPREAD = 1e-3  # of the loss: a spread below this is none
NAMED = 2  # domains that a sentence names

Columns = NDArray[np.float64]  # M domains, W steps


@dataclass(frozen=True)
class Spike:
    """A step whose loss stands out, or is no number.

    Attributes:
        loss: over the global batch, nats.
        gradient_norm: before clipping.
        expected, most: the loss to expect after the newest steps, and the most that passes; None: they are too few.
        domains: (name, loss, median of the newest steps) of those that lie furthest above that, the furthest first.
    """

    loss: float
    gradient_norm: float
    expected: float | None
    most: float | None
    domains: tuple[tuple[str, float, float], ...]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    def __str__(self) -> str:
        found = f"the loss is {self.loss:.4g}"
        if math.isfinite(self.loss) and not self.finite:
            found = f"the gradient norm is {self.gradient_norm} and {found}"
        if self.expected is not None:
            found += f", where {self.expected:.4g} was expected and {self.most:.4g} passes"
        named = [
            f"{name} ({loss:.4g}{'' if math.isnan(usual) else f', usually {usual:.4g}'})"
            for name, loss, usual in self.domains
        ]
        return f"{found}; it moved most in {join_words(named)}"


class RecentLosses:
    """The losses of the newest steps by domain, and what a further one is held against.

    Args:
        domains: their names, in the order of every array here.
        window: steps that are remembered.
        min_history: steps before which nothing finite stands out.
        threshold: spreads (standard deviations, where the noise is normal) above the expected loss.
    """

    def __init__(self, domains: Sequence[str], window: int, min_history: int, threshold: float) -> None:
        self.domains = tuple(domains)
        self.window = window
        self.min_history = min_history
        self.threshold = threshold
        self._steps = np.empty((0, 2, len(self.domains)))  # of each loss_sum_M and tokens_M, the oldest first

    def add(self, loss_sum_M: Columns, tokens_M: Columns) -> None:
        """Remember a step: the sum of its losses and the tokens that they are of, by domain."""
        step = np.stack([loss_sum_M, tokens_M]).astype(np.float64)
        self._steps = np.concatenate([self._steps[max(0, len(self._steps) + 1 - self.window) :], step[None]])

    def judge(self, loss_sum_M: Columns, tokens_M: Columns, total: float, gradient_norm: float) -> Spike | None:
        """What stands out about a step, or None; `total` is its loss with all that is added to the cross-entropy."""
        loss = float(loss_sum_M.sum() / tokens_M.sum()) if math.isfinite(total) else total
        loss_M, median_M = mean_losses(loss_sum_M, tokens_M), self._medians()
        expected, most = self._expect(np.where(np.isnan(median_M), loss_M, median_M), tokens_M)
        if math.isfinite(loss) and math.isfinite(gradient_norm) and (most is None or loss <= most):
            return None
        return Spike(loss, gradient_norm, expected, most, self._furthest(loss_M, median_M, tokens_M))

    def _medians(self) -> Columns:
        """NaN for a domain that none of the steps has drawn."""
        if not len(self._steps):
            return np.full(len(self.domains), math.nan)
        return medians(mean_losses(self._steps[:, 0], self._steps[:, 1]))

    def _expect(self, usual_M: Columns, tokens_M: Columns) -> tuple[float | None, float | None]:
        """(the loss to expect of a mixture whose domains lose as usual, the most that passes); None: too few steps."""
        if len(self._steps) < self.min_history:
            return None, None
        usual_M = np.nan_to_num(usual_M, posinf=0.0, neginf=0.0)
        loss_sum_WM, tokens_WM = self._steps[:, 0], self._steps[:, 1]
        above_W = (loss_sum_WM - tokens_WM * usual_M).sum(axis=1) / tokens_WM.sum(axis=1)
        middle = median(above_W)
        expected = float((tokens_M * usual_M).sum() / tokens_M.sum()) + middle
        spread = SIGMA * median(np.abs(above_W - middle))
        return expected, expected + self.threshold * max(spread, LEAST_SPREAD * abs(expected))

    def _furthest(self, loss_M: Columns, median_M: Columns, tokens_M: Columns) -> tuple[tuple[str, float, float], ...]:
        """Those that are no number come first of all."""
        above_M = np.nan_to_num(loss_M - np.nan_to_num(median_M), nan=math.inf)
        drawn = [domain for domain in np.argsort(-above_M, kind="stable").tolist() if tokens_M[domain]]
        return tuple((self.domains[d], float(loss_M[d]), float(median_M[d])) for d in drawn[:NAMED])

    def dump(self) -> str:
        """The newest steps, for a checkpoint; every number comes back as it was."""
        return json.dumps({"version": VERSION, "steps": [step.tolist() for step in self._steps]})

    def load(self, text: str) -> None:
        """What `dump` has written; a curriculum that changed may have brought further domains since."""
        content = json.loads(text)
        assert content["version"] == VERSION
        self._steps = self._steps[:0]
        for step in content["steps"]:
            self.add(*np.pad(step, ((0, 0), (0, len(self.domains) - len(step[0])))))


def mean_losses(loss_sum_M: Columns, tokens_M: Columns) -> Columns:
    """NaN for a domain that was not drawn."""
    return np.divide(loss_sum_M, tokens_M, out=np.full(tokens_M.shape, math.nan), where=tokens_M > 0)


def median(values_W: Columns) -> float:
    """Of numbers. `np.median` looks at what it is given for ten times as long, in every step."""
    in_order = np.sort(values_W)
    return float(in_order[(len(in_order) - 1) // 2] + in_order[len(in_order) // 2]) / 2


def medians(values_WM: Columns) -> Columns:
    """[M] of the values that are numbers; NaN where none is. `np.nanmedian`, too, takes ten times as long."""
    in_order_WM = np.sort(values_WM, axis=0)  # NaN come last
    count_M, each_M = np.count_nonzero(~np.isnan(values_WM), axis=0), np.arange(values_WM.shape[1])
    below_M, above_M = in_order_WM[np.maximum(count_M - 1, 0) // 2, each_M], in_order_WM[count_M // 2, each_M]
    return (below_M + above_M) / 2
