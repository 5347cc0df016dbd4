"""Where the tokens of each domain went, summed over the steps between two rows of metrics.jsonl."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class RoutingSum:
    """The sum over the steps since it was last taken; it goes into the checkpoint, so that every step counts once."""

    def __init__(self) -> None:
        self.steps = 0
        self.tokens_LME: Tensor | None = None

    def add(self, tokens_LME: Tensor) -> None:
        """Count one more step, int64 [L, M, E] over all ranks; a curriculum that changed may have brought domains."""
        self.steps += 1
        if self.tokens_LME is not None:
            new_domains = tokens_LME.shape[1] - self.tokens_LME.shape[1]
            tokens_LME = tokens_LME + pad(self.tokens_LME, (0, 0, 0, new_domains))
        self.tokens_LME = tokens_LME

    def take(self) -> dict[str, Any]:
        """The columns of a row; back to nothing."""
        assert self.tokens_LME is not None, "a step comes first"
        columns = {"moe/routing_steps": self.steps, "moe/routing": self.tokens_LME.tolist()}
        self.steps, self.tokens_LME = 0, None
        return columns

    def dump(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {"steps": self.steps, "tokens": None if self.tokens_LME is None else self.tokens_LME.tolist()}

    def load(self, content: dict[str, Any]) -> None:
        """What `dump` has returned."""
        self.steps = content["steps"]
        self.tokens_LME = None if content["tokens"] is None else torch.tensor(content["tokens"], dtype=torch.int64)
