"""Whether the experts do well: one step's figures over all layers, microbatches and ranks."""

from __future__ import annotations

from typing import Any

from model.statistics import StepStatistics


def moe_health(statistics: StepStatistics, top_k: int) -> dict[str, Any]:
    """The `moe/` columns of a step's row; `statistics` are summed over the ranks.

    Numbers are the worst layer's (max violation), means over layers and tokens (router entropy in nats, router z), or
    counts over all layers; lists are by layer. `docs/metrics.md` has the formulas.
    """
    tokens_LE = statistics.tokens_by_layer_expert.numpy()
    entropy_L = statistics.over_tokens(statistics.router_entropy_sum_by_layer, top_k).tolist()
    z_L = statistics.over_tokens(statistics.router_z_sum_by_layer, top_k).tolist()
    violation_L = tokens_LE.max(axis=1) / tokens_LE.mean(axis=1) - 1
    return {
        "moe/max_violation": float(violation_L.max()),
        "moe/router_entropy": sum(entropy_L) / len(entropy_L),
        "moe/router_z": sum(z_L) / len(z_L),
        "moe/dead_experts": int((tokens_LE == 0).sum()),
        "moe/dropped_tokens": int(statistics.dropped_by_layer.sum()),
        "moe/router_entropy_by_layer": entropy_L,
        "moe/router_z_by_layer": z_L,
        "moe/tokens_per_expert": tokens_LE.tolist(),
    }
