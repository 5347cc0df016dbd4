"""Where the time of a step went, read from a trace of torch's profiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from model.config import PARTS

Event = dict[str, Any]  # of a chrome trace; times in microseconds
Times = dict[str, dict[str, float]]  # by row: milliseconds of a step on the "host", and on the "device" if there is one

COMPILED = "compiled"  # the part that torch.compile has made of others

# One after the other they make up a step; `train/callbacks/profile.py` marks them in the trace.
PHASES = ("data wait", "forward", "loss", "backward", "clipping", "metrics", "evaluation", "checkpoint", "other")
# What is so called belongs to the row, whatever it lies in.
ROWS = {
    "all-to-all": ("all-to-all", "_AlltoAll", "AllToAll", "c10d::alltoall"),
    "FSDP reduce": ("FSDP::post_backward", "FSDP::root_post_backward"),
    "FSDP gather": ("FSDP::",),
    "optimizer": ("Optimizer.",),
}
SPLIT = {"forward": (*PARTS, COMPILED), "backward": (*PARTS, COMPILED)}  # phases by part of the model
STEP, NODE = "ProfilerStep#", "autograd::engine::evaluate_function: "
HOST = ("cpu_op", "user_annotation", "cuda_runtime", "cuda_driver")
DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
ORDER = [
    *(label for phase in PHASES for label in (*(f"{phase}: {part}" for part in SPLIT.get(phase, ())), phase)),
    *ROWS,
]


class Span(NamedTuple):
    """What an event belongs to."""

    end: float
    row: str | None
    phase: str
    part: str | None

    @property
    def label(self) -> str:
        in_part = self.part is not None and self.phase in SPLIT
        return self.row or (f"{self.phase}: {self.part}" if in_part else self.phase)


def step_times(events: Sequence[Event]) -> Times:
    """Self time by row, in milliseconds of a step: together they are the step.

    The host's is that of the thread that trains. On a GPU the backward pass has a thread of its own, for which that one
    waits; so the two are read as one. The device's is that of the kernels that a row has launched.
    """
    own = host_events(events)
    steps = sum(event["name"].startswith(STEP) for event in own)
    assert steps, "a trace of whole steps"
    times: Times = {label: {"host": 0.0} for label in ORDER}
    parts: dict[int, str | None] = {}  # of the forward pass, by autograd's number
    launched: dict[int, str] = {}  # what launched a kernel, by correlation
    stack: list[Span] = []
    for event in own:
        begin, end, arguments = event["ts"], event["ts"] + event["dur"], event.get("args", {})
        while stack and stack[-1].end <= begin:
            stack.pop()
        if not stack and not event["name"].startswith(STEP):
            continue
        if stack:
            end = min(end, stack[-1].end)
            times[stack[-1].label]["host"] -= (end - begin) / 1e3 / steps
        span = span_of(event, end, stack[-1] if stack else None, parts)
        if span.phase == "forward" and "Sequence number" in arguments:
            parts[arguments["Sequence number"]] = span.part  # the last one of a number makes autograd's node
        if "correlation" in arguments:
            launched[arguments["correlation"]] = span.label
        times[span.label]["host"] += (end - begin) / 1e3 / steps
        stack.append(span)
    for event in events:
        if event.get("cat") in DEVICE and (label := launched.get(event["args"].get("correlation"))):
            times[label]["device"] = times[label].get("device", 0.0) + event["dur"] / 1e3 / steps
    return {label: time for label, time in times.items() if any(time.values())}


def host_events(events: Sequence[Event]) -> list[Event]:
    """What the threads did that train, outer events before those that they hold."""
    done = [event for event in events if event.get("ph") == "X" and event.get("cat") in HOST]
    threads = {event["tid"] for event in done if event["name"].startswith((STEP, NODE))}
    return sorted((e for e in done if e["tid"] in threads), key=lambda event: (event["ts"], -event["dur"]))


def span_of(event: Event, end: float, parent: Span | None, parts: dict[int, str | None]) -> Span:
    name, arguments = event["name"], event.get("args", {})
    _, row, phase, part = parent or Span(end, None, "other", None)
    row = next((row for row, names in ROWS.items() if name.startswith(names)), row)
    if name.startswith(NODE):
        row = next((row for row, names in ROWS.items() if name.removeprefix(NODE).startswith(names)), row)
        part = parts.get(arguments.get("Sequence number", -1), part)
    if event["cat"] == "user_annotation":
        phase = name if name in PHASES else phase
        part = name if name in PARTS else part
    if name.startswith("Torch-Compiled Region"):
        part = COMPILED
    return Span(end, row, phase, part)


def table(by_rank: Sequence[Times]) -> str:
    """A line for each row: its milliseconds of a step (mean, least and most over the ranks) and its share."""
    whole = {side: [sum(t.get(side, 0.0) for t in times.values()) for times in by_rank] for side in ("host", "device")}
    sides = [side for side in whole if any(whole[side])]
    heading = "".join(f"{f'{side}: mean':>13}{'least':>10}{'most':>10}{'share':>8}" for side in sides)
    lines = [f"{'milliseconds of a step':<24}{heading}"]
    for label in ORDER:
        if any(label in times for times in by_rank):
            columns = {side: [times.get(label, {}).get(side, 0.0) for times in by_rank] for side in sides}
            lines.append(f"{label:<24}{''.join(cells(columns[side], whole[side]) for side in sides)}")
    return "\n".join([*lines, f"{'the step':<24}{''.join(cells(whole[side], whole[side]) for side in sides)}"])


def cells(values: Sequence[float], whole: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):>13.2f}"
    return f"{mean}{min(values):>10.2f}{max(values):>10.2f}{sum(values) / sum(whole):>8.1%}"
