"""What does a step of ours cost beyond the model's own forward, backward and optimizer?

    .venv/bin/python benchmarks/step_overhead.py [KEY=VALUE ...]

Trains by the demo's recipe (`make demo` prepares the dataset), with all that a run does: data, losses by domain,
routing, gradient norms, clipping, metrics.jsonl, W&B's offline files, console. After each of its steps the same model
is taken through the same batch bare: forward, loss, backward, optimizer. The two stand beside one another in time, so
each pair has a ratio of its own; printed is the median of these, over all and over each of several rounds, which
tell how far the machine can be trusted. With one thread (OMP_NUM_THREADS=1) seconds of the CPU are the steadier clock.
KEY=VALUE sets keys of the recipe. Ends with one JSON line.

What the trainer adds is code that runs once a step. `after_a_pause` tells whether the machine can time such code: how
many times as long a few lines of Python take after half a second of waiting as right after themselves. Waiting touches
no memory, so it should be little more than 1. On a virtual machine whose memory is watched it came to 16 to 170:
there the first touch of a page that was looked at takes 130 us, and a good part of the overhead found is that.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import psutil
import torch
from beside import conditions
from composer import Callback, Event, Logger, State
from composer.core.precision import get_precision_context
from composer.utils import dist
from torch import Tensor

from data.manifest import Manifest
from model.composer_model import Batch, DbrxComposerModel
from train.alone import alone
from train.build import build_device
from train.checkpoints.contents import Contents, dataset_tokenizer
from train.console import Console
from train.cpu import settle_in
from train.history import continue_run
from train.inputs import read_run
from train.parallel import device_of_rank
from train.recipe import Recipe
from train.run import build_trainer, quieten
from train.run_directory import RunDirectory
from train.step_clock import StepClock

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path("yamls/demo/pretrain.yaml")
WARMUP, ROUND, ROUNDS = 3, 12, 4  # steps
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Reading = dict[str, float]


class Beside(Callback):
    """Comes last: takes a bare step after each of the trainer's, and keeps what both took.

    Attributes:
        steps: (the trainer's step, the bare one), by clock in seconds.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[Reading, Reading]] = []
        self._batches: list[Batch] = []
        self._done = read()

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_FORWARD:
            self._batches.append(state.batch)
        if event == Event.BATCH_CHECKPOINT:
            began = read()
            state.optimizers[0].zero_grad()
            for batch in self._batches:
                with get_precision_context(state.precision):
                    loss = loss_of(state.model, batch) / len(self._batches)
                loss.backward()
            state.optimizers[0].step()
            ended = read()
            self.steps.append((since(self._done, began), since(began, ended)))
            self._batches.clear()
            self._done = read()


def loss_of(model: DbrxComposerModel, batch: Batch) -> Tensor:
    """The model's own, without what is counted for the dashboards."""
    outputs = model(batch)
    return torch.stack([outputs.token_loss.mean, *model._routing_losses(outputs.routings).values()]).sum()


def read() -> Reading:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {name: clock() for name, clock in CLOCKS.items()}


def since(before: Reading, after: Reading) -> Reading:
    return {name: after[name] - before[name] for name in CLOCKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the recipe")
    options = parser.parse_args()
    os.chdir(ROOT)
    said = conditions()
    with tempfile.TemporaryDirectory() as folder:
        own = [f"run_root={folder}", f"max_duration={WARMUP + ROUND * ROUNDS + 1}ba", "save_interval=1_000_000ba"]
        recipe, manifest = read_run(RECIPE, [*own, "eval_interval=1_000_000ba", *options.overrides])
        steps = train_beside(recipe, manifest)
    counted = steps[WARMUP : WARMUP + ROUND * ROUNDS]
    rounds = [counted[first : first + ROUND] for first in range(0, len(counted), ROUND)]
    overhead = {clock: median_ratio(counted, clock) - 1 for clock in CLOCKS}
    by_round = {clock: [round(median_ratio(pairs, clock) - 1, 4) for pairs in rounds] for clock in CLOCKS}
    for clock, ratio in overhead.items():
        rounds_said = ", ".join(f"{one:.2%}" for one in by_round[clock])
        print(f"{clock}: a step of the trainer takes {ratio:.2%} longer than the bare one (by round: {rounds_said})")
    paused = after_a_pause()
    print(f"a few lines of Python take {paused:.1f} times as long after half a second of waiting")
    bare = statistics.median(pair[1]["wall"] for pair in counted)
    result = {
        "benchmark": "step_overhead",
        **said,
        "overhead": {clock: round(ratio, 4) for clock, ratio in overhead.items()},
        "by_round": by_round,
        "bare_step_ms": round(1e3 * bare, 1),
        "after_a_pause": round(paused, 1),
        "tokens": recipe.step_tokens,
        "steps": len(counted),
    }
    print(json.dumps(result))


def train_beside(recipe: Recipe, manifest: Manifest) -> list[tuple[Reading, Reading]]:
    run = RunDirectory.of(recipe)
    run.path.mkdir(parents=True)
    plan, history = continue_run(run, recipe, manifest)
    contents = Contents(recipe.model, dataset_tokenizer(recipe.dataset, manifest))
    console = Console(recipe.interval_steps(recipe.log_interval), recipe.steps, plan.domains)
    quieten()
    settle_in()
    dist.initialize_dist(build_device())
    trainer = build_trainer(recipe, manifest, plan, history, run, None, contents, console, StepClock(device_of_rank()))
    beside = Beside()
    trainer.state.callbacks.append(beside)
    try:
        with alone():
            trainer.fit()
    finally:
        trainer.close()
    return beside.steps


def after_a_pause() -> float:
    """How many times as long a few lines of Python take after half a second of waiting as right after themselves."""

    def lines() -> float:
        began = time.perf_counter()
        psutil.Process().memory_info()
        return time.perf_counter() - began

    def pause() -> None:
        end = time.perf_counter() + 0.5
        while time.perf_counter() < end:
            pass

    at_once = [lines() for _ in range(100)]
    paused = [(pause(), lines())[1] for _ in range(10)]
    return statistics.median(paused) / statistics.median(at_once)


def median_ratio(pairs: list[tuple[Reading, Reading]], clock: str) -> float:
    return statistics.median(ours[clock] / bare[clock] for ours, bare in pairs)


if __name__ == "__main__":
    main()
