"""What a plan comes to, as plain data for JSON: `brickyard plan` shows it, and a run keeps it as plan.json."""

from __future__ import annotations

import itertools
from typing import Any

from data.manifest import Manifest
from data.mixture.plan import Plan
from data.mixture.schedule import WEIGHT_UNIT
from model.flops import count_parameters
from train.recipe import Recipe


def summarise(recipe: Recipe, manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """What a run of this recipe will read: totals, domains and spans, as plain data for JSON."""
    end = recipe.steps * recipe.global_train_batch_size
    parameters = count_parameters(recipe.model)
    edges = sorted({0, end, *(anchor.at for anchor in plan.schedule.anchors if anchor.at < end)})
    return {
        "run_name": recipe.run_name,
        "dataset": manifest.fingerprint,
        "plan": plan.fingerprint,
        "steps": recipe.steps,
        "samples": end,
        "tokens": end * recipe.max_seq_len,
        "tokens_per_step": recipe.step_tokens,
        "parameters": parameters.total,
        "active_parameters": parameters.active,
        "domains": domain_totals(plan, recipe, end),
        "spans": [span_totals(plan, recipe, first, last) for first, last in itertools.pairwise(edges)],
    }


def domain_totals(plan: Plan, recipe: Recipe, end: int) -> dict[str, Any]:
    delivered = plan.delivered(end)
    return {
        order.domain: {
            "rows": order.row_count,
            "samples": int(count),
            "tokens": int(count) * recipe.max_seq_len,
            "share": int(count) / end,
            "epochs": int(count) / order.row_count,
        }
        for order, count in zip(plan.orders, delivered, strict=True)
    }


def span_totals(plan: Plan, recipe: Recipe, first: int, last: int) -> dict[str, Any]:
    before, after = plan.delivered(first), plan.delivered(last)
    # The weights on arrival are those just before the next anchor takes over: a step has not happened yet.
    start, stop = plan.schedule.weights_at(first), plan.schedule.weights_at(last - 1)
    return {
        "from_tokens": first * recipe.max_seq_len,
        "to_tokens": last * recipe.max_seq_len,
        "domains": {
            order.domain: {
                "weight_from": start[number] / WEIGHT_UNIT,
                "weight_to": stop[number] / WEIGHT_UNIT,
                "tokens": int(after[number] - before[number]) * recipe.max_seq_len,
                "epochs_from": int(before[number]) / order.row_count,
                "epochs_to": int(after[number]) / order.row_count,
            }
            for number, order in enumerate(plan.orders)
        },
    }
