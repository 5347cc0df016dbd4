"""A profile of a few steps: a trace of each rank, and a table of where a step's time went."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from composer import Callback, Event, Logger, State
from composer.utils import dist
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils.hooks import RemovableHandle

from model.parts import KINDS
from train.console import Console
from train.recipe import ProfileConfig
from train.run_directory import write_whole
from train.step_times import step_times, table

PHASE_FROM = {
    Event.BEFORE_DATALOADER: "data wait",
    Event.AFTER_DATALOADER: "other",
    Event.BEFORE_FORWARD: "forward",
    Event.BEFORE_LOSS: "loss",
    Event.BEFORE_BACKWARD: "backward",
    Event.AFTER_BACKWARD: "clipping",  # comes before this one
    Event.AFTER_TRAIN_BATCH: "other",
    Event.BATCH_END: "metrics",
    Event.EVAL_BEFORE_ALL: "evaluation",
    Event.BATCH_CHECKPOINT: "checkpoint",
}


class Profile(Callback):
    """Traces `steps` steps after the first `skip` of this start.

    Comes before all that do not change the step, so that a phase holds what the others do in it. What marks the parts
    of the model are hooks that are there only while it traces.

    Args:
        folder: gets rankN.json.gz, which https://ui.perfetto.dev and chrome://tracing open, step.txt and step.json.
    """

    def __init__(self, folder: Path, config: ProfileConfig, console: Console) -> None:
        self.folder = folder
        self.config = config
        self.console = console
        self._skipped = 0
        self._profiler: profile | None = None
        self._phase = ExitStack()
        self._hooks: list[RemovableHandle] = []

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_DATALOADER:
            self._phase.close()
            self._begin_step(state)
        if event == Event.FIT_END:
            self._stop()
        if self._profiler is not None and event in PHASE_FROM:
            self._phase.close()
            self._phase.enter_context(record_function(PHASE_FROM[event]))

    def _begin_step(self, state: State) -> None:
        if self._profiler is not None:
            self._profiler.step()
            if self._profiler.step_num > self.config.steps:
                self._stop()
        elif self._skipped == self.config.skip - 1:
            self._hooks = [*marks(state.model)]
            self._profiler = profile(
                activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])],
                schedule=schedule(wait=0, warmup=1, active=self.config.steps, repeat=1),
                on_trace_ready=self._write,
            )
            self._profiler.start()
        self._skipped += 1

    def _stop(self) -> None:
        """End tracing; does nothing if it has not begun, or is over."""
        self._phase.close()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _write(self, profiler: profile) -> None:
        """Each rank its trace, and the first one the table of all. A collective."""
        self.folder.mkdir(parents=True, exist_ok=True)
        trace = self.folder / f"rank{dist.get_global_rank()}.json.gz"
        profiler.export_chrome_trace(str(trace))
        with gzip.open(trace) as file:
            times = step_times(json.load(file)["traceEvents"])
        by_rank = dist.all_gather_object(times)
        if dist.get_global_rank() == 0:
            lines = table(by_rank)
            write_whole(self.folder / "step.json", json.dumps({"milliseconds": by_rank}, indent=1))
            write_whole(self.folder / "step.txt", f"{lines}\n")
            for line in lines.splitlines():
                self.console.say(line)
            self.console.say(f"profile: {self.folder}; ui.perfetto.dev shows the traces")


def marks(module: nn.Module) -> Iterator[RemovableHandle]:
    """Have the trace say when the parts of the model compute. What is compiled is left alone, because a hook would have
    it compiled anew."""
    if module._compiled_call_impl is not None:
        return
    for child in module.children():
        yield from marks(child)
    part = next((part for part, kind in KINDS.items() if isinstance(module, kind)), "norms")
    if part == "norms":  # too small to be worth a row
        return
    span = ExitStack()

    def enter(*_: Any) -> None:
        span.enter_context(record_function(part))

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(lambda *_: span.close(), always_call=True)  # recomputing stops early
