"""What happened to a run beside its training: starts, spikes, saves; as a list, and as marks on its curves."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from data.page.figure import NEUTRAL, Trace, number
from data.page.shell import Section
from data.page.tables import table
from data.words import duration, join_words, nats, plural
from train.events import ROLLBACK, SAVED, START
from train.report.reader import RunRecord
from train.report.series import LINE_POINTS

SPIKES = {"warn": "training went on", "skip_batch": "its update was dropped", "stop": "the run ended", ROLLBACK: ""}
SPIKE_COLOUR = "#d9484f"
LISTED = 200  # newest events
Event = Mapping[str, Any]


def happened(run: RunRecord) -> Section:
    title = "What happened?"
    if not run.events:
        return Section("happened", title, "Nothing is written down of this run beside its steps.")
    listed = [event for event in run.events if event["event"] != SAVED][-LISTED:]
    rows = [(when(event), [f"{event['step']:,}", said(event)]) for event in reversed(listed)]
    below = table("Events, the newest first (UTC)", ["when", "step", "what"], rows, words=(2,)) if rows else ""
    return Section("happened", title, answer(run), below=below)


def answer(run: RunRecord) -> str:
    starts, spikes, saves = of_kind(run, START), of_kind(run, *SPIKES), of_kind(run, SAVED)
    sentences = [f"It was started {plural(len(starts), 'time')}{on_ranks(starts)}."] if starts else []
    sentences.append(f"{plural(len(spikes), 'step')} stood out by a loss." if spikes else "No step's loss stood out.")
    if saves:
        typical = float(np.median([event["seconds"] for event in saves]))
        sentences.append(
            f"It was saved {plural(len(saves), 'time')}, the last time after step {saves[-1]['step']:,}; a save was on "
            f"the disk {duration(typical)} after it began (median)."
        )
    return " ".join(sentences)


def on_ranks(starts: Sequence[Event]) -> str:
    """`, on 2, then 1 rank`: each number as it changed."""
    ranks = [event["ranks"] for event in starts]
    changes = [str(count) for place, count in enumerate(ranks) if place == 0 or count != ranks[place - 1]]
    return f", on {', then '.join(changes)} {'rank' if changes[-1] == '1' else 'ranks'}"


def of_kind(run: RunRecord, *kinds: str) -> list[Event]:
    return [event for event in run.events if event["event"] in kinds]


def when(event: Event) -> str:
    return html.escape(datetime.fromisoformat(event["time"]).strftime("%Y-%m-%d %H:%M:%S"))


def said(event: Event) -> str:
    """An event in words; one that is not known here by its name."""
    kind, step = event["event"], event["step"]
    if kind == START:
        return f"{'went on' if step else 'began'} with {plural(event['ranks'], 'rank')}"
    if kind == SAVED:
        return f"saved in {duration(event['seconds'])}"
    if kind == "recipe changed":
        return f"the recipe changed: {'; '.join(event['changes'])}"
    if kind in SPIKES:
        then = (
            SPIKES[kind]
            or f"back to step {event['back_to']:,}, without samples {event['first']:,} to {event['end'] - 1:,}"
        )
        return f"{spike(event)}; {then}"
    return str(kind)


def spike(event: Event) -> str:
    loss, expected = event.get("loss"), event.get("expected")
    words = f"the loss was {nats(loss) if isinstance(loss, int | float) else loss}"
    words += f", where {nats(expected)} was expected" if isinstance(expected, int | float) else ""
    domains = event.get("domains")
    return f"{words}; it moved most in {join_words(domains)}" if domains else words


# Marks on curves over tokens, on an axis of their own from 0 (below) to 1 (above).


def marks(run: RunRecord) -> list[Trace]:
    """Where the run went on, dotted; where a loss stood out, red; where it was saved, ticks below."""
    went_on = [event for event in of_kind(run, START) if event["step"]]
    saves = of_kind(run, SAVED)[-LINE_POINTS // 2 :]
    found = [
        upright(run, went_on, "went on", {"color": NEUTRAL, "width": 1.5, "dash": "dot"}),
        upright(run, of_kind(run, *SPIKES), "spike", {"color": SPIKE_COLOUR, "width": 1.5}),
        points(run, went_on, "went on", 1.0, {"symbol": "triangle-right", "color": NEUTRAL, "size": 9}),
        points(run, of_kind(run, *SPIKES), "spike", 1.0, {"symbol": "diamond", "color": SPIKE_COLOUR, "size": 8}),
        points(run, saves, "saved", 0.03, {"symbol": "triangle-up", "color": NEUTRAL, "size": 8}),
    ]
    return [trace for trace in found if trace["x"]]


def marks_note(run: RunRecord) -> str:
    """How to read them, as far as there are any."""
    kinds = {
        "dotted, where the run went on": any(event["step"] for event in of_kind(run, START)),
        "red, where a loss stood out": bool(of_kind(run, *SPIKES)),
        "triangles, where it was saved": bool(of_kind(run, SAVED)),
    }
    shown = [words for words, there in kinds.items() if there]
    return f"Marks: {'; '.join(shown)}." if shown else ""


def places(run: RunRecord, events: Sequence[Event]) -> list[float | int | None]:
    """Each event's tokens."""
    steps, tokens = (np.append(0.0, run.steps[name]) for name in ("batch", "tokens"))
    return [number(float(np.interp(event["step"], steps, tokens))) for event in events]


def upright(run: RunRecord, events: Sequence[Event], name: str, line: dict[str, Any]) -> Trace:
    x = [value for place in places(run, events) for value in (place, place, None)]
    y = [0, 1, None] * len(events)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "name": name,
        "line": line,
        "yaxis": "y2",
        "hoverinfo": "skip",
    }


def points(run: RunRecord, events: Sequence[Event], name: str, height: float, marker: dict[str, Any]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": places(run, events),
        "y": [height] * len(events),
        "text": [html.escape(f"step {event['step']:,}: {said(event)}") for event in events],
        "name": name,
        "marker": marker,
        "yaxis": "y2",
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
    }
