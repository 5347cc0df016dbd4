"""The page's plots, as plain data for plotly.js: the page's script adds what depends on the reader's screen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from data.page.figure import NEUTRAL, Figure, Trace, colour_of, of_domain, scatter
from data.words import join_words, nats, percent, short
from train.report.happened import marks, marks_note
from train.report.lines import faint, rough_and_smooth
from train.report.reader import RunRecord
from train.report.series import DOTS, last_finite, means, present, smoothed, thinned


def training_loss(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["loss/cross_entropy"]
    return Figure(
        "training-loss",
        "Training loss",
        f"Training loss over tokens: from {nats(y[0])} to {nats(last_finite(smoothed(y)))} nats per token.",
        f"{faint(run)} Cross-entropy, without the load-balancing loss. {marks_note(run)}".strip(),
        [*rough_and_smooth(x, y, "training loss", NEUTRAL), *marks(run)],
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
    losses = {domain: run.steps[f"domain/loss/{domain}"] for domain in run.domains}
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
