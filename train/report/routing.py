"""Routing by domain: which experts of a layer the tokens of each domain went to."""

from __future__ import annotations

import html
import math

import numpy as np
from numpy.typing import NDArray

from data.page.figure import Figure, Trace
from data.words import join_words, percent, plural
from train.report.reader import Routing, RunRecord
from train.routing import REACH, relative_share


def distances(routing: Routing) -> NDArray[np.float64]:
    """[L] how far the domains are apart in each layer: the share of a token's choices that would have to go elsewhere
    for its domain to be spread as the layer's tokens as a whole are (total variation distance, mean over tokens)."""
    tokens_LME = routing.tokens_LME.astype(np.float64)
    tokens_LM1 = tokens_LME.sum(axis=2, keepdims=True)
    whole_L1E = tokens_LME.sum(axis=1, keepdims=True) / tokens_LM1.sum(axis=1, keepdims=True)
    return np.abs(tokens_LME - tokens_LM1 * whole_L1E).sum(axis=(1, 2)) / 2 / tokens_LM1.sum(axis=(1, 2))


def answer(run: RunRecord, routing: Routing) -> str:
    """How far apart, and the strongest preference."""
    apart = distances(routing)
    first = run.first_moe_layer
    layer = first + int(apart.argmax())
    share = relative_share(routing.tokens_LME)
    preferred, domain, expert = np.unravel_index(np.nanargmax(share), share.shape)
    return (
        f"Over {plural(routing.steps, 'step')} up to the newest evaluation, layer {layer} told the domains apart the "
        f"most: of a domain's tokens, {percent(float(apart.max()))} went to other experts than those of the layer as "
        f"a whole. The strongest preference: expert {expert} of layer {first + preferred} was given "
        f"{share[preferred, domain, expert]:.1f} times an equal share of {run.domains[domain]}."
    )


def heat_map(run: RunRecord, routing: Routing) -> Figure:
    """A heat map for each layer, of which the page shows the one that is chosen; at first the one that says most."""
    _, domains, experts = routing.tokens_LME.shape
    apart = distances(routing)
    shares = relative_share(routing.tokens_LME)
    chosen = int(apart.argmax())
    numbers = range(run.first_moe_layer, run.first_moe_layer + len(apart))
    choices = zip(numbers, apart.tolist(), strict=True)
    return Figure(
        "routing",
        "Routing by domain",
        f"In layer {numbers[chosen]}, experts with the largest share of each domain: "
        f"{join_words(favourites(run, shares[chosen]))}, where 1 is an equal share.",
        "An expert's share of a domain's tokens, where 1 is an equal share. In brackets: how far the layer tells the "
        "domains apart. Numbered from 0, as in the checkpoint.",
        [layer_trace(run, share) for share in shares],
        "",
        "expert",
        height=max(260, 130 + 26 * domains),
        y_axis={"autorange": "reversed", "showgrid": False, "type": "category"},
        x_axis={"tick0": 0, "dtick": math.ceil(experts / 16), "showgrid": False, "rangemode": "normal"},
        choices=[f"layer {layer} ({percent(distance)})" for layer, distance in choices],
        chosen=chosen,
    )


def favourites(run: RunRecord, share_ME: NDArray[np.float64]) -> list[str]:
    """The expert with the largest share of each domain, in words."""
    known = [number for number, row in enumerate(share_ME) if np.isfinite(row).all()]
    return [f"{run.domains[n]} expert {share_ME[n].argmax()} with {share_ME[n].max():.2f}" for n in known]


def layer_trace(run: RunRecord, share_ME: NDArray[np.float64]) -> Trace:
    """Shares as they are; the page's script puts their colours on a logarithmic scale."""
    domains, experts = share_ME.shape
    return {
        "type": "heatmap",
        "z": [[round(share, 3) if math.isfinite(share) else None for share in row] for row in share_ME.tolist()],
        "y": [html.escape(name) for name in run.domains[:domains]],
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, expert %{x}: %{customdata:.2f} of an equal share<extra></extra>",
        "meta": {"cells": experts <= 16, "domains": True, "reach": REACH},
    }
