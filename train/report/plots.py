"""The page's plots, as plain data for plotly.js: the page's script adds what depends on the reader's screen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from data.page.figure import NEUTRAL, Figure, Trace, colour_of, numbers, of_domain, scatter
from data.words import join_words, nats, percent, short
from train.report.reader import Column, RunRecord
from train.report.series import DOTS, LINE_POINTS, extremes, last_finite, means, present, smoothed, thinned


def rough_and_smooth(x: Column, y: Column, name: str, colour: str, **more: Any) -> list[Trace]:
    """The values as they came, faint, and what they come to."""
    raw = scatter(*extremes(*present(x, y)), name, colour, **more)
    raw |= {"opacity": 0.4, "hoverinfo": "skip", "line": {"color": colour, "width": 1}}
    return [raw, scatter(*thinned(*present(x, smoothed(y))), name, colour, **more)]


def faint(run: RunRecord, steps: str = "every step") -> str:
    """What the two lines of `rough_and_smooth` are."""
    count = len(run.steps)
    stretch = math.ceil(count / (LINE_POINTS // 2))
    rough = steps if count <= LINE_POINTS else f"the lowest and the highest of about {stretch:,} steps"
    return f"Faint: {rough}. Strong: moving mean."


def newest_steps(run: RunRecord) -> str:
    """The steps that the experts' load is taken over."""
    return "the last step" if run.metrics.expert_steps == 1 else f"the last {run.metrics.expert_steps} steps"


def training_loss(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["loss/train/cross_entropy"]
    return Figure(
        "training-loss",
        "Training loss",
        f"Training loss over tokens: from {nats(y[0])} to {nats(last_finite(smoothed(y)))} nats per token.",
        f"{faint(run)} Cross-entropy, without the load-balancing loss.",
        rough_and_smooth(x, y, "training loss", NEUTRAL),
        "nats per token",
    )


def heldout_loss(run: RunRecord) -> Figure:
    x = run.evaluations["tokens"]
    lines: list[Trace] = []
    for index, domain in enumerate(run.domains):
        points = present(x, run.heldout_loss(domain))
        if not len(points[0]):
            continue
        mode = "lines+markers" if len(points[0]) <= 60 else "lines"
        lines.append(scatter(*thinned(*points), domain, colour_of(index), mode=mode, **of_domain(index)))
        lines += unigram_line(run, domain, index)
    ends = [(domain, last_finite(run.heldout_loss(domain))) for domain in run.domains]
    said = join_words([f"{domain} ends at {nats(loss)}" for domain, loss in ends if loss is not None])
    return Figure(
        "heldout-loss",
        "Held-out loss by domain",
        f"Held-out loss over tokens, in nats per token: {said}.",
        "Dashed: the loss of the domain's own unigram model on the same text, which knows only how frequent each token "
        "is.",
        lines,
        "nats per token",
        x_axis={"rangemode": "tozero"},
    )


def unigram_line(run: RunRecord, domain: str, index: int) -> list[Trace]:
    loss = run.unigram_loss(domain)
    if loss is None:
        return []
    ends = np.array([0.0, float(run.tokens_done)])
    dashed = {"line": {"color": colour_of(index), "width": 1.5, "dash": "dash"}, "hoverinfo": "skip"}
    return [scatter(ends, np.full(2, loss), f"{domain}, unigram", colour_of(index), **dashed, **of_domain(index))]


def domain_losses(run: RunRecord) -> Figure:
    x = run.steps["tokens"]
    losses = {domain: run.steps[f"loss/train/{domain}"] for domain in run.domains}
    lines = [
        trace
        for index, domain in enumerate(run.domains)
        for trace in rough_and_smooth(x, losses[domain], domain, colour_of(index), **of_domain(index))
    ]
    ends = {domain: last_finite(smoothed(loss)) for domain, loss in losses.items()}
    said = join_words([f"{domain} ends at {nats(loss)}" for domain, loss in ends.items() if loss is not None])
    return Figure(
        "domain-loss",
        "Training loss by domain",
        f"Training loss over tokens for each domain, in nats per token: {said}.",
        faint(run, "every step that drew the domain"),
        lines,
        "nats per token",
        height=380,
    )


def mixture(run: RunRecord) -> Figure:
    x = run.steps["tokens"]
    lines: list[Trace] = []
    for index, domain in enumerate(run.domains):
        asked, delivered = (100 * run.steps[f"mixture/{kind}/{domain}"] for kind in ("asked", "delivered"))
        dots = {"mode": "markers", "marker": {"color": colour_of(index), "size": 5, "opacity": 0.55}}
        more: dict[str, Any] = {**dots, **of_domain(index)}
        lines.append(scatter(*means(x, delivered), f"{domain}, delivered", colour_of(index), **more))
        lines.append(scatter(*thinned(x, asked), f"{domain}, asked", colour_of(index), **of_domain(index)))
    steps = math.ceil(len(x) / DOTS)
    dot = "one step" if steps == 1 else f"the mean of about {steps:,} steps"
    return Figure(
        "mixture",
        "Mixture, asked and delivered",
        "Share of each domain in the tokens. " + " ".join(mixture_words(run, domain) for domain in run.domains),
        f"Lines: what the curriculum asked. Dots: what the model was given, each {dot}.",
        lines,
        "share of tokens (%)",
        height=380,
        y_axis={"rangemode": "tozero"},
        wide=True,
    )


def domain_tokens(run: RunRecord) -> Figure:
    return Figure(
        "domain-tokens",
        "Tokens of each domain so far",
        f"Tokens of each domain that the model was given: {so_far_words(run, 'tokens', short)}.",
        "What the model was given since the run began.",
        so_far(run, "tokens"),
        "tokens of the domain",
        y_axis={"rangemode": "tozero"},
    )


def domain_epochs(run: RunRecord) -> Figure:
    return Figure(
        "domain-epochs",
        "Epochs of each domain so far",
        f"Times that the model was given each domain: {so_far_words(run, 'epochs', '{:.2f}'.format)}.",
        "Above 1 the model sees text again, in another order.",
        so_far(run, "epochs"),
        "epochs of the domain",
        y_axis={"rangemode": "tozero"},
    )


def so_far(run: RunRecord, what: str) -> list[Trace]:
    """A line for each domain, from nothing on."""
    lines = []
    for index, domain in enumerate(run.domains):
        points = present(run.steps["tokens"], run.steps[f"mixture/{what}/{domain}"])
        x, y = (np.append(0, column) for column in points)
        lines.append(scatter(*thinned(x, y), domain, colour_of(index), **of_domain(index)))
    return lines


def so_far_words(run: RunRecord, what: str, form: Callable[[float], str]) -> str:
    ends = {domain: last_finite(run.steps[f"mixture/{what}/{domain}"]) for domain in run.domains}
    return join_words([f"{domain} {form(end)}" for domain, end in ends.items() if end is not None])


def mixture_words(run: RunRecord, domain: str) -> str:
    asked = run.steps[f"mixture/asked/{domain}"]
    return f"{domain}: {percent(asked[0])} asked at first, {percent(asked[-1])} at the end."


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


def throughput(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["tokens_per_second"]
    return Figure(
        "throughput",
        "Tokens per second",
        f"Training speed over tokens: {np.nanmedian(y):,.0f} tokens per second in the median step.",
        f"{faint(run)} The first step of every start is slow.",
        rough_and_smooth(x, y, "tokens per second", NEUTRAL),
        "tokens per second",
        y_axis={"rangemode": "tozero"},
    )


def data_wait(run: RunRecord) -> Figure:
    x, share = run.steps["tokens"], run.steps["seconds_waiting_for_data"] / run.steps["seconds"]
    return Figure(
        "data-wait",
        "Waiting for data",
        f"Share of a step spent waiting for data: {percent(float(np.nanmedian(share)))} in the median step.",
        f"{faint(run)} The share of a step's time in which the model waited for its next batch.",
        rough_and_smooth(x, 100 * share, "waiting for data", NEUTRAL),
        "share of step time (%)",
        y_axis={"rangemode": "tozero"},
    )
