"""From what a run's record says to one HTML page that needs nothing else."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from train.report.plots import Figure, colour_of
from train.report.reader import RunRecord
from train.report.sections import Section, against_unigram, heldout_ends, sections, thinning_note
from train.report.series import last_finite, smoothed
from train.words import duration, nats, plural, short

RECENT_STEPS = 100  # that the current speed is taken from


def render(run: RunRecord) -> str:
    """The page."""
    parts = sections(run)
    figures = {figure.id: figure.for_script() for section in parts for figure in section.figures}
    return Template(resource("page.html")).substitute(
        name=html.escape(run.plan["run_name"]),
        state=html.escape(state(run)),
        progress=progress(run),
        cards="\n".join(card(*entry) for entry in headline(run)),
        links="\n".join(f'<a href="#{section.id}">{section.question}</a>' for section in parts),
        domains="\n".join(domain_button(name, number) for number, name in enumerate(run.domains)),
        sections="\n".join(section_html(section) for section in parts),
        thinning=html.escape(thinning_note(run)),
        measured=f"{run.measured_at:%Y-%m-%d %H:%M} UTC",
        css=resource("page.css"),
        script=resource("page.js"),
        plotly=plotly_script(),
        figures=json_for_html(figures),
    )


def resource(name: str) -> str:
    return files("train.report").joinpath(name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """plotly.js, whole, as plotly's own package carries it."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def json_for_html(content: Any) -> str:
    """JSON that can't end the script element it stands in."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def state(run: RunRecord) -> str:
    done = f"{run.steps_done:,} of {run.plan['steps']:,} steps"
    if run.finished:
        return f"{done}, finished"
    return f"{done}, not finished; {duration(seconds_left(run))} of training left at its current speed"


def current_speed(run: RunRecord) -> float:
    """Tokens per second over the newest steps."""
    return float(np.nanmedian(run.steps["tokens_per_second"][-RECENT_STEPS:]))


def seconds_left(run: RunRecord) -> float:
    return (run.plan["tokens"] - run.tokens_done) / current_speed(run)


def progress(run: RunRecord) -> str:
    """A bar, while there is something left to do."""
    if run.finished:
        return ""
    share = run.tokens_done / run.plan["tokens"]
    return f'<progress max="1" value="{share:.4f}" aria-label="tokens done">{share:.1%}</progress>'


def headline(run: RunRecord) -> list[tuple[str, str, str]]:
    """(name, value, what it is next to) of the few numbers that matter."""
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


def loss_card(run: RunRecord) -> tuple[str, str, str]:
    ends = heldout_ends(run)
    if not ends:
        loss = last_finite(smoothed(run.steps["loss/train/cross_entropy"]))
        return "Training loss", nats(loss), "nats per token; nothing evaluated yet"
    loss = float(np.mean(list(ends.values())))
    return "Held-out loss", nats(loss), against_unigram(run) or f"nats, mean of {plural(len(ends), 'domain')}"


def card(name: str, value: str, note: str) -> str:
    name, value, note = (html.escape(text) for text in (name, value, note))
    return f"<div><dt>{name}</dt><dd><b>{value}</b><small>{note}</small></dd></div>"


def domain_button(name: str, number: int) -> str:
    """Shows and hides a domain in every plot; the legend of them all."""
    mark = f'<span class="swatch" style="background:{colour_of(number)}"></span>'
    return f'<button type="button" aria-pressed="true" data-domain="{number}">{mark}{html.escape(name)}</button>'


def section_html(section: Section) -> str:
    pictures = "\n".join(figure_html(figure) for figure in section.figures)
    return (
        f'<section id="{section.id}" aria-labelledby="{section.id}-question">\n'
        f'<h2 id="{section.id}-question">{html.escape(section.question)}</h2>\n'
        f'<p class="answer">{html.escape(section.answer)}</p>\n'
        f'<div class="plots">{pictures}</div>\n{section.below}\n</section>'
    )


def figure_html(figure: Figure) -> str:
    return (
        f'<figure><h3>{html.escape(figure.title)}</h3>\n<div class="plot" data-figure="{figure.id}" '
        f'role="img" tabindex="0" aria-label="{html.escape(figure.label)}" style="height:{figure.height}px"></div>\n'
        f"<figcaption>{html.escape(figure.note)}</figcaption></figure>"
    )
