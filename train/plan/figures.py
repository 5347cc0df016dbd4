"""The plots of the plan's page."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.mixture.order import DomainOrder
from data.mixture.plan import Plan
from data.page.figure import NEUTRAL, Figure, Trace, colour_of, of_domain, scatter
from data.words import change, join_words, short
from train.report.series import Column

POINTS = 48  # of a curve between two anchors
ANCHORS_NAMED = 8  # with more anchors than these, their words would lie on each other

Summary = dict[str, Any]
Measure = Callable[[DomainOrder, NDArray[np.int64]], Column]  # of a domain's samples so far


def schedule(summary: Summary, plan: Plan) -> Figure:
    """The weights, stacked."""
    samples = schedule_points(summary)
    x = tokens_of(summary, samples)
    weights = 100 * np.array([plan.weights(sample) for sample in samples], np.float64)
    areas: list[Trace] = []
    for number, domain in enumerate(plan.domains):
        colour = colour_of(number)
        area = {"stackgroup": "weights", "line": {"width": 0.5, "color": colour}, "fillcolor": colour}
        hover = {"hovertemplate": "%{y:.3~f}%"}
        areas.append(scatter(x, weights[:, number], domain, colour, **area, **hover, **of_domain(number)))
    said = [f"{domain} {change(weights[0, n], weights[-1, n], '.3g')}%" for n, domain in enumerate(plan.domains)]
    return Figure(
        "schedule",
        "Share of each domain, as asked",
        f"Share of each domain in the tokens, from the beginning to the end: {join_words(said)}.",
        "Dotted: the curriculum's anchors.",
        [*areas, *anchor_lines(summary, 100)],
        "share of tokens (%)",
        height=400,
        y_axis={"range": [0, 100]},
        x_axis={"range": [0, summary["tokens"]]},
    )


def cumulative_tokens(summary: Summary, plan: Plan) -> Figure:
    ends = [f"{domain} {short(totals['tokens'])}" for domain, totals in summary["domains"].items()]
    return Figure(
        "tokens",
        "Tokens of each domain so far",
        f"Tokens of each domain at the end: {join_words(ends)}.",
        "Worked out from the plan itself: what the model will be given.",
        cumulative(summary, plan, lambda order, samples: samples * float(sample_tokens(summary))),
        "tokens of the domain",
    )


def cumulative_epochs(summary: Summary, plan: Plan) -> Figure:
    ends = [f"{domain} {totals['epochs']:.2f}" for domain, totals in summary["domains"].items()]
    return Figure(
        "epochs",
        "Epochs of each domain so far",
        f"Epochs of each domain at the end: {join_words(ends)}.",
        "Above 1, the model is given what it has had before, in another order.",
        cumulative(summary, plan, lambda order, samples: order.epochs.done(samples)),
        "epochs",
    )


def cumulative(
    summary: Summary, plan: Plan, measure: Callable[[DomainOrder, NDArray[np.int64]], Column]
) -> list[Trace]:
    """A line for each domain: its samples so far, as `measure` takes them."""
    samples = np.linspace(0, summary["samples"], 2 * POINTS + 1, dtype=np.int64).tolist()
    x = tokens_of(summary, samples)
    counts = np.array([plan.delivered(sample) for sample in samples])
    return [
        scatter(x, measure(order, counts[:, number]), order.domain, colour_of(number), **of_domain(number))
        for number, order in enumerate(plan.orders)
    ]


def schedule_points(summary: Summary) -> list[int]:
    """Samples between which the weights are as good as straight lines: both sides of a step are among them."""
    edges = [span["from_tokens"] // sample_tokens(summary) for span in summary["spans"]]
    points: list[int] = []
    for first, last in itertools.pairwise([*edges, summary["samples"]]):
        points += np.unique(np.linspace(first, last - 1, POINTS, dtype=np.int64)).tolist()
    return points


def anchor_lines(summary: Summary, height: float) -> list[Trace]:
    """A dotted line for each anchor inside the run, with its tokens if there is room."""
    inside = [place["tokens"] for place in summary["anchors"] if 0 < place["tokens"] < summary["tokens"]]
    named = len(inside) <= ANCHORS_NAMED
    dotted = {"line": {"color": "#ffffff", "width": 1.5, "dash": "dot"}, "hoverinfo": "skip"}
    words = {"mode": "lines+text", "textposition": "middle right", "textfont": {"color": "#ffffff", "size": 13}}
    return [
        scatter(
            np.full(3, float(tokens)),
            np.array([0, 0.95 * height, height]),
            "anchor",
            NEUTRAL,
            **dotted,
            **({"text": ["", f" {short(tokens)}", ""], **words} if named else {}),
        )
        for tokens in inside
    ]


def tokens_of(summary: Summary, samples: list[int]) -> Column:
    return np.array(samples, np.float64) * sample_tokens(summary)


def sample_tokens(summary: Summary) -> int:
    """Tokens of one sample."""
    return summary["tokens"] // summary["samples"]
