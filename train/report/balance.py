"""How evenly the tokens spread over the experts, and how sure the routers are."""

from __future__ import annotations

import math

import numpy as np

from data.page.figure import NEUTRAL, Figure, numbers
from data.page.shell import Section
from data.words import percent, plural
from train.report.lines import faint, rough_and_smooth
from train.report.reader import RunRecord
from train.report.series import last_finite, smoothed


def balance(run: RunRecord) -> Section:
    title = "How balanced?"
    if run.metrics.expert_tokens is None:
        return Section("balance", title, "The run's metrics hold no expert load.")
    figures = [expert_load(run), max_violation(run)]
    figures += [router_entropy(run), router_z(run)] if "moe/router_entropy" in run.steps else []
    return Section("balance", title, answer(run), figures)


def answer(run: RunRecord) -> str:
    tokens = run.metrics.expert_tokens
    assert tokens is not None
    share = tokens / tokens.mean(axis=1, keepdims=True)
    spread = (
        f"Over {newest_steps(run)}, an expert got between {share.min():.2f} and {share.max():.2f} of an equal "
        "share of its layer's tokens."
    )
    idle = int((tokens == 0).sum())
    spread += f" {plural(idle, 'expert')} got no token at all." if idle else ""
    if "moe/dropped_tokens" not in run.steps:
        return spread
    dropped, dead = (run.steps[f"moe/{name}"] for name in ("dropped_tokens", "dead_experts"))
    lost = int(np.nansum(dropped))
    spread += f" {plural(lost, 'token')} were dropped, which must not be." if lost else " No token was dropped."
    steps = int((dead > 0).sum())
    return spread + (f" In {plural(steps, 'step')} some expert got no token." if steps else " No expert was ever idle.")


def newest_steps(run: RunRecord) -> str:
    """The steps that the experts' load is taken over."""
    return "the last step" if run.metrics.expert_steps == 1 else f"the last {run.metrics.expert_steps} steps"


def expert_load(run: RunRecord) -> Figure:
    tokens = run.metrics.expert_tokens
    assert tokens is not None
    share = tokens / tokens.mean(axis=1, keepdims=True)
    layers, experts = share.shape
    first = run.first_moe_layer
    reach = min(1.0, max(0.25, float(np.abs(share - 1).max())))
    layer, expert = divmod(int(share.argmax()), experts)
    heat = {
        "type": "heatmap",
        "z": [numbers(row) for row in share],
        "y": list(range(first, first + layers)),
        "zmin": 1 - reach,
        "zmid": 1,
        "zmax": 1 + reach,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "layer %{y}, expert %{x}: %{z:.2f} of an equal share<extra></extra>",
        "meta": {"cells": layers <= 24 and experts <= 16},
    }
    steps = newest_steps(run)
    return Figure(
        "expert-load",
        "Expert load",
        f"Tokens of {experts} experts in {layers} layers over {steps}, where 1 is an equal share: "
        f"from {share.min():.2f} to {share.max():.2f}, the most for expert {expert} of layer {first + layer}.",
        f"Tokens that each expert was given over {steps}; 1 is an equal share. Numbered from 0, as in the checkpoint.",
        [heat],
        "layer",
        "expert",
        height=min(720, max(260, 130 + 26 * layers)),
        y_axis={"autorange": "reversed", "tick0": first, "dtick": math.ceil(layers / 12), "showgrid": False},
        x_axis={"tick0": 0, "dtick": math.ceil(experts / 16), "showgrid": False, "rangemode": "normal"},
    )


def max_violation(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["moe/max_violation"]
    return Figure(
        "max-violation",
        "Busiest expert above an equal share",
        f"Max violation over tokens: {percent(y[0])} at first, {percent(last_finite(smoothed(y)))} at the end.",
        f"{faint(run)} Max violation: the busiest expert of the worst layer above an equal share; 0 is balanced.",
        rough_and_smooth(x, 100 * y, "max violation", NEUTRAL),
        "above equal share (%)",
        y_axis={"rangemode": "tozero"},
    )


def router_entropy(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["moe/router_entropy"]
    assert run.metrics.expert_tokens is not None
    most = math.log(run.metrics.expert_tokens.shape[1])
    return Figure(
        "router-entropy",
        "Routers' entropy",
        f"Entropy of the routers: {y[0]:.3f} nats at first, {last_finite(smoothed(y)) or 0:.3f} at the end.",
        f"{faint(run)} Mean over tokens and layers: {most:.2f} where a router prefers no expert, 0 where it knows one.",
        rough_and_smooth(x, y, "entropy", NEUTRAL),
        "nats",
    )


def router_z(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["moe/router_z"]
    return Figure(
        "router-z",
        "Routers' z",
        f"Router z over tokens: {y[0]:.3g} at first, {last_finite(smoothed(y)) or 0:.3g} at the end.",
        f"{faint(run)} Squared log-sum-exp of a token's logits, mean over tokens and layers; it grows with them.",
        rough_and_smooth(x, y, "router z", NEUTRAL),
        "router z",
        y_axis={"rangemode": "tozero"},
    )
