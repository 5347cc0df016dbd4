"""What a plan comes to, as plain data for JSON: `brickyard plan` shows it, and a run keeps it as plan.json."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.manifest import Manifest
from data.mixture.order import epochs_of
from data.mixture.plan import Plan
from data.patience import Say, silent
from data.words import short
from model.flops import count_parameters
from train.curriculum.build import Exhaustion, exhaustions
from train.learning_rate import Schedule
from train.places import Steps, place_of
from train.plan.memory import memory_warnings, predicted_memory
from train.plan.ranks import arrangement
from train.plan.repeats import repeats
from train.plan.shards import shards_to_read
from train.plan.warnings import cache_warnings, planned_warnings, warnings
from train.recipe import Recipe

STRETCHES = 50  # that the samples are counted in, so that something can be said on the way


def summarise(
    recipe: Recipe,
    manifest: Manifest,
    plan: Plan,
    ranks: int,
    memory: int | None = None,
    say: Say = silent,
    steps: Steps | None = None,
) -> dict[str, Any]:
    """What a run of this recipe will read (totals, domains, spans, repeats, shards), and what each of its ranks does.

    Args:
        memory: bytes of the device of a rank, if they are known.
        say: hears how far it is.
        steps: of a run that goes on; None for one that begins.
    """
    steps = steps or Steps.of(recipe)
    used_up = exhaustions(recipe, manifest)
    count_ahead(plan, recipe, recipe.end, say)
    delivered = plan.delivered(recipe.end).tolist()
    domains = domain_totals(plan, recipe, steps, delivered, say)
    shards = shards_to_read(recipe, manifest, plan, delivered)
    of_recipe = summarise_recipe(recipe, ranks, memory)
    return {
        **of_recipe,
        "steps": steps.until(recipe.end),
        "dataset": manifest.fingerprint,
        "plan": plan.fingerprint,
        "anchors": [
            {**place_of(recipe, steps, at), "ramp": ramp, "weights": by_domain(plan, plan.weights(at))}
            for at, ramp in anchors(recipe)
        ],
        "domains": domains,
        "unread_domains": [domain for domain in manifest.domains if domain not in plan.domains],
        "spans": [
            span_totals(plan, recipe, first, last) for first, last in itertools.pairwise(edges(recipe, plan, used_up))
        ],
        "used_up": [
            {"domain": gone.domain, "max_epochs": gone.max_epochs, **place_of(recipe, steps, gone.sample)}
            for gone in used_up
        ],
        "shards": shards,
        "warnings": [
            *planned_warnings(recipe, manifest),
            *warnings(recipe, steps, used_up),
            *cache_warnings(recipe, domains, shards),
            *memory_warnings(of_recipe["memory"]),
        ],
    }


def summarise_recipe(recipe: Recipe, ranks: int, memory: int | None = None) -> dict[str, Any]:
    """The part of it that no dataset is needed for."""
    parameters = count_parameters(recipe.model)
    return {
        "run_name": recipe.run_name,
        "steps": recipe.steps,
        "samples": recipe.end,
        "tokens": recipe.end * recipe.max_seq_len,
        "tokens_per_step": recipe.step_tokens,
        "parameters": parameters.total,
        "active_parameters": parameters.active,
        "learning_rate": [
            {"what": what, "to_tokens": steps * recipe.step_tokens} for what, steps in Schedule.of(recipe).parts()
        ],
        "layout": arrangement(recipe, ranks),
        "memory": predicted_memory(recipe, ranks, memory),
    }


def count_ahead(plan: Plan, recipe: Recipe, end: int, say: Say) -> None:
    """Let the plan work out where it stands up to sample `end`; it remembers, and later questions are quick."""
    for sample in np.linspace(0, end, STRETCHES, dtype=np.int64).tolist():
        plan.delivered(sample)
        say(f"{short(sample * recipe.max_seq_len)} of {short(end * recipe.max_seq_len)} tokens counted")


def anchors(recipe: Recipe) -> list[tuple[int, str]]:
    """(sample, ramp that leads there) of the recipe's anchors."""
    return [(recipe.samples(anchor.at), anchor.ramp) for anchor in recipe.curriculum.anchors]


def edges(recipe: Recipe, plan: Plan, used_up: Sequence[Exhaustion]) -> list[int]:
    """Where the run's spans begin and end: at its anchors, where its curriculum changed, where a domain is used up."""
    inside = [at for at, _ in anchors(recipe)] + [era.start for era in plan.eras] + [gone.sample for gone in used_up]
    return sorted({0, recipe.end, *(at for at in inside if at < recipe.end)})


def shown_spans(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans that people care for: what is left of the last step after an anchor at the run's end is none."""
    return [span for span in summary["spans"] if span["to_tokens"] - span["from_tokens"] >= summary["tokens_per_step"]]


def by_domain(plan: Plan, values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return dict(zip(plan.domains, map(float, values), strict=True))


def domain_totals(plan: Plan, recipe: Recipe, steps: Steps, delivered: Sequence[int], say: Say) -> dict[str, Any]:
    """What each domain gives in the whole run, of which it gives `delivered` [domains] samples."""
    totals = {}
    for number, (order, count) in enumerate(zip(plan.orders, delivered, strict=True)):
        totals[order.domain] = {
            "rows": order.row_count,
            "samples": count,
            "tokens": count * recipe.max_seq_len,
            "share": count / sum(delivered),
            "epochs": epochs_of(order, count),
            "repeats": repeats(plan, recipe, steps, number, count),
        }
        say(f"repeats of {number + 1} of {len(delivered)} domains found")
    return totals


def span_totals(plan: Plan, recipe: Recipe, first: int, last: int) -> dict[str, Any]:
    """What each domain gives in samples `first <= n < last`."""
    before, after = plan.delivered(first).tolist(), plan.delivered(last).tolist()
    # The weights on arrival are those just before the next anchor takes over: a step has not happened yet.
    start, stop = plan.weights(first).tolist(), plan.weights(last - 1).tolist()
    return {
        "from_tokens": first * recipe.max_seq_len,
        "to_tokens": last * recipe.max_seq_len,
        "domains": {
            order.domain: {
                "weight_from": start[number],
                "weight_to": stop[number],
                "tokens": (after[number] - before[number]) * recipe.max_seq_len,
                "epochs_from": epochs_of(order, before[number]),
                "epochs_to": epochs_of(order, after[number]),
            }
            for number, order in enumerate(plan.orders)
        },
    }
