"""What does a step of ours cost beyond the model's own forward, backward and optimizer?

    .venv/bin/python benchmarks/step_overhead.py [KEY=VALUE ...]

Trains by the demo's recipe (`make demo` prepares the dataset), with all that a run does: data, losses by domain,
routing, gradient norms, clipping, metrics.jsonl, W&B's offline files, console. It is measured in two ways:

- inside: clocks around the model's forward, its losses, the backward pass, `zero_grad` and the optimizer's update tell
  what of a step is the model's own. The overhead is all the rest, divided by that.
- beside: after each step the same model is taken through the same batch bare, and the step divided by the bare one.
  This finds too what the trainer's code costs the model's own by what it drives out of the caches; but two steps
  differ by 5% on a virtual machine for no reason, so it is good to half a percent at best.

Printed are medians over the steps, over all and over each of several rounds, which tell how far the machine can be
trusted. With one thread (OMP_NUM_THREADS=1) seconds of the CPU are the steadier clock. KEY=VALUE sets keys of the
recipe. Ends with one JSON line.

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
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from beside import conditions
from composer import Callback, Event, Logger, State, Trainer
from composer.core.precision import get_precision_context
from composer.utils import dist
from torch import Tensor
from torch.optim import AdamW, Optimizer

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
from train.straight_engine import straighten

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path("yamls/demo/pretrain.yaml")
WARMUP, ROUND, ROUNDS = 3, 12, 4  # steps
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Reading = dict[str, float]


class Step(NamedTuple):
    """Seconds by clock of one step of the trainer's, of the model's own in it, and of a bare one."""

    whole: Reading
    own: Reading
    bare: Reading


class Own:
    """Adds up what the model's own parts of a step take."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(CLOCKS, 0.0)
        for owner, name in ((DbrxComposerModel, "forward"), (DbrxComposerModel, "losses"), (Tensor, "backward")):
            self._time(owner, name)
        self._time(Optimizer, "zero_grad")
        self._time(AdamW, "step")  # Composer takes the whole step inside it,
        self._time(Trainer, "_train_microbatches", -1)  # by this, which has the parts above

    def _time(self, owner: type, name: str, sign: int = 1) -> None:
        action = getattr(owner, name)

        @wraps(action)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = read()
            result = action(*args, **kwargs)
            for clock, seconds in since(began, read()).items():
                self.seconds[clock] += sign * seconds
            return result

        setattr(owner, name, timed)


class Beside(Callback):
    """Comes last: takes a bare step after each of the trainer's."""

    def __init__(self, own: Own) -> None:
        self.steps: list[Step] = []
        self._own = own
        self._batches: list[Batch] = []
        self._done = read()

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_FORWARD:
            self._batches.append(state.batch)
        if event == Event.BATCH_CHECKPOINT:
            began, own = read(), dict(self._own.seconds)
            state.optimizers[0].zero_grad()
            for batch in self._batches:
                with get_precision_context(state.precision):
                    loss = loss_of(state.model, batch) / len(self._batches)
                loss.backward()
            state.optimizers[0].step()
            ended = read()
            self.steps.append(Step(since(self._done, began), own, since(began, ended)))
            self._batches.clear()
            self._own.seconds = dict.fromkeys(CLOCKS, 0.0)
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
    overhead = {way: {clock: figures(counted, way, clock) for clock in CLOCKS} for way in ("own", "bare")}
    for way, whose in {"own": "the model's own part of it", "bare": "a bare one"}.items():
        for clock, (ratio, *by_round) in overhead[way].items():
            rounds_said = ", ".join(f"{one:.2%}" for one in by_round)
            print(f"{clock}: a step takes {ratio:.2%} longer than {whose} (by round: {rounds_said})")
    paused = after_a_pause()
    print(f"a few lines of Python take {paused:.1f} times as long after half a second of waiting")
    result = {
        "benchmark": "step_overhead",
        **said,
        "overhead_inside": {clock: found[0] for clock, found in overhead["own"].items()},
        "overhead_beside": {clock: found[0] for clock, found in overhead["bare"].items()},
        "by_round": {way: {clock: found[1:] for clock, found in clocks.items()} for way, clocks in overhead.items()},
        "own_ms": round(1e3 * statistics.median(step.own["wall"] for step in counted), 1),
        "after_a_pause": round(paused, 1),
        "tokens": recipe.step_tokens,
        "steps": len(counted),
    }
    print(json.dumps(result))


def train_beside(recipe: Recipe, manifest: Manifest) -> list[Step]:
    run = RunDirectory.of(recipe)
    run.path.mkdir(parents=True)
    plan, history = continue_run(run, recipe, manifest)
    contents = Contents(recipe.model, dataset_tokenizer(recipe.dataset, manifest))
    console = Console(recipe.interval_steps(recipe.log_interval), recipe.steps, plan.domains)
    quieten()
    settle_in()
    dist.initialize_dist(build_device())
    trainer = build_trainer(recipe, manifest, plan, history, run, None, contents, console, StepClock(device_of_rank()))
    beside = Beside(Own())
    trainer.state.callbacks.append(beside)
    straighten(trainer)
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


def figures(steps: list[Step], way: str, clock: str) -> list[float]:
    """The overhead over all steps, then over each round of them."""
    rounds = [steps[first : first + ROUND] for first in range(0, len(steps), ROUND)]
    return [
        round(statistics.median(step.whole[clock] / getattr(step, way)[clock] for step in some) - 1, 4)
        for some in (steps, *rounds)
    ]


if __name__ == "__main__":
    main()
