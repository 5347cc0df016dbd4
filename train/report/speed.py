"""How fast a run goes, and where the time of a step goes."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from data.page.figure import NEUTRAL, Figure, Trace, scatter
from data.page.shell import Section
from data.page.tables import table
from data.words import duration, percent, short
from train.report.happened import marks, marks_note
from train.report.lines import faint, rough_and_smooth
from train.report.reader import RunRecord
from train.report.series import means

# Each part of a step, in words, and its colour; in this order they lie above each other.
PARTS = {
    "forward": ("forward", "#3b82d6"),
    "backward": ("backward", "#9568d8"),
    "all_to_all": ("all-to-all of the experts", "#d9701a"),
    "optimizer": ("optimizer", "#2f9e58"),
    "data": ("waiting for data", "#d9484f"),
    "checkpoint": ("waiting for a checkpoint", "#8f8a1e"),
    "rest": ("the rest", "#7d858f"),
}


def speed(run: RunRecord) -> Section:
    figures = [throughput(run)]
    figures += [mfu(run)] if "throughput/mfu" in run.steps else []
    has_parts = "throughput/seconds/forward" in run.steps
    figures += [parts_of_a_step(run)] if has_parts else []
    return Section("speed", "How fast?", answer(run), figures, parts_table(run) if has_parts else "")


def answer(run: RunRecord) -> str:
    seconds, waiting = run.steps["throughput/seconds"], run.steps["throughput/seconds/data"]
    said = (
        f"{median(run, 'tokens_per_second'):,.0f} tokens per second in the median step, which takes "
        f"{duration(float(np.nanmedian(seconds)))}; {percent(float(np.nansum(waiting) / np.nansum(seconds)))} of all "
        f"step time went into waiting for data. All steps together took {duration(float(np.nansum(seconds)))}"
    )
    evaluating = float(np.nansum(run.evaluations["throughput/seconds/evaluation"]))
    said += f", evaluation {duration(evaluating)}." if evaluating else "."
    if "throughput/mfu" in run.steps:
        return f"{said} That is {percent(median(run, 'mfu'))} of what the devices could do (MFU)."
    if "throughput/model_flops_per_second" in run.steps:
        rate = short(median(run, "model_flops_per_second"))
        return (
            f"{said} The model's own work was {rate} FLOP/s; the peak of this device is not known, so there is no MFU."
        )
    return said


def median(run: RunRecord, name: str) -> float:
    return float(np.nanmedian(run.steps[f"throughput/{name}"]))


def throughput(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["throughput/tokens_per_second"]
    beside = "throughput/mfu" in run.steps
    return Figure(
        "throughput",
        "Tokens per second",
        f"Training speed over tokens: {np.nanmedian(y):,.0f} tokens per second in the median step.",
        f"{faint(run)} The first step of every start is slow. {marks_note(run)}".strip(),
        [*rough_and_smooth(x, y, "tokens per second", NEUTRAL), *marks(run)],
        "tokens per second",
        y_axis={"rangemode": "tozero"},
        wide=not beside,
    )


def mfu(run: RunRecord) -> Figure:
    x, y = run.steps["tokens"], run.steps["throughput/mfu"]
    return Figure(
        "mfu",
        "Model FLOPs utilisation",
        f"MFU over tokens: {percent(median(run, 'mfu'))} in the median step.",
        f"{faint(run)} The model's FLOPs, nothing recomputed among them, over what all devices could do at their peak.",
        rough_and_smooth(x, 100 * y, "MFU", NEUTRAL),
        "MFU (%)",
        y_axis={"rangemode": "tozero"},
    )


def shown(run: RunRecord) -> list[str]:
    """The parts that take any time."""
    return [part for part in PARTS if np.nansum(run.steps[f"throughput/seconds/{part}"]) > 0]


def parts_of_a_step(run: RunRecord) -> Figure:
    seconds, x = run.steps["throughput/seconds"], run.steps["tokens"]
    lines: list[Trace] = []
    for part in shown(run):
        words, colour = PARTS[part]
        share = means(x, 100 * run.steps[f"throughput/seconds/{part}"] / seconds)
        area: dict[str, Any] = {
            "stackgroup": "parts",
            "fillcolor": colour,
            "line": {"color": colour, "width": 0},
            "mode": "lines",
        }
        lines.append(scatter(*share, words, colour, **area))
    largest = max(shown(run), key=lambda part: total(run, part))
    return Figure(
        "step-parts",
        "Where a step's time goes",
        f"Share of a step's time by part; the most goes into {PARTS[largest][0]}: {percent(total(run, largest))}.",
        "As the first rank has measured it. Exchanges of the experts count as all-to-all, in forward and backward.",
        lines,
        "share of step time (%)",
        height=380,
        y_axis={"range": [0, 100]},
        wide=True,
        legend=True,
    )


def total(run: RunRecord, part: str) -> float:
    """A part's share of the time of all steps."""
    return float(np.nansum(run.steps[f"throughput/seconds/{part}"]) / np.nansum(run.steps["throughput/seconds"]))


def parts_table(run: RunRecord) -> str:
    rows = [
        (
            f'<span class="swatch" style="background:{PARTS[part][1]}"></span>{html.escape(PARTS[part][0])}',
            [milliseconds(median(run, f"seconds/{part}")), percent(total(run, part))],
        )
        for part in shown(run)
    ]
    rows.append(("the step", [milliseconds(median(run, "seconds")), percent(1.0)]))
    return table("Time by part of a step", ["part", "in the median step", "of all steps"], rows)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"
