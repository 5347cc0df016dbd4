"""From what a run's record says to one HTML page that needs nothing else."""

from __future__ import annotations

import html

import numpy as np

from data.page.shell import Card, whole_page
from data.words import duration, nats, plural, short
from train.report.reader import RunRecord
from train.report.sections import against_unigram, heldout_ends, sections, thinning_note
from train.report.series import last_finite, smoothed

RECENT_STEPS = 100  # that the current speed is taken from


def render(run: RunRecord) -> str:
    """The page."""
    measured = f"{run.measured_at:%Y-%m-%d %H:%M} UTC"
    return whole_page(
        name=run.plan["run_name"],
        state=state(run),
        cards=headline(run),
        domains=run.domains,
        sections=sections(run),
        notes=[
            html.escape(thinning_note(run)),
            f"Metrics as of {measured}. Written by <code>brickyard report</code>.",
        ],
        progress=progress(run),
    )


def state(run: RunRecord) -> str:
    done = f"{run.steps_done:,} of {run.planned_steps:,} steps"
    if run.finished:
        return f"{done}, finished"
    return f"{done}, not finished; {duration(seconds_left(run))} of training left at its current speed"


def current_speed(run: RunRecord) -> float:
    """Tokens per second over the newest steps."""
    return float(np.nanmedian(run.steps["throughput/tokens_per_second"][-RECENT_STEPS:]))


def seconds_left(run: RunRecord) -> float:
    return (run.plan["tokens"] - run.tokens_done) / current_speed(run)


def progress(run: RunRecord) -> str:
    """A bar, while there is something left to do."""
    if run.finished:
        return ""
    share = run.tokens_done / run.plan["tokens"]
    return f'<progress max="1" value="{share:.4f}" aria-label="tokens done">{share:.1%}</progress>'


def headline(run: RunRecord) -> list[Card]:
    """The few numbers that matter."""
    plan = run.plan
    share = "" if run.finished else f" ({run.tokens_done / plan['tokens']:.1%})"
    count = min(RECENT_STEPS, len(run.steps))
    return [
        loss_card(run),
        ("Tokens", short(run.tokens_done), f"of {short(plan['tokens'])} planned{share}"),
        (
            "Tokens per second",
            short(current_speed(run)),
            "of the first step" if count == 1 else f"median of the last {count} steps",
        ),
        ("Parameters", short(plan["parameters"]), f"{short(plan['active_parameters'])} active for a token"),
    ]


def loss_card(run: RunRecord) -> Card:
    ends = heldout_ends(run)
    if not ends:
        loss = last_finite(smoothed(run.steps["loss/cross_entropy"]))
        return "Training loss", nats(loss), "nats per token; nothing evaluated yet"
    loss = float(np.mean(list(ends.values())))
    return "Held-out loss", nats(loss), against_unigram(run) or f"nats, mean of {plural(len(ends), 'domain')}"
