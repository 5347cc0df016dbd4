"""What does a step of ours cost beyond the model's own forward, backward and optimizer?

    .venv/bin/python benchmarks/step_overhead.py [KEY=VALUE ...]

Trains by the demo's recipe (`make demo` prepares the dataset), with all that a run does: data, losses by domain,
routing, norms, metrics.jsonl, W&B's offline files, console. The optimizer is the recipe's: AdamW and the clipping
before it, as in any hand-written step; `clipping` says what share of a step that is. It is measured in two ways, in
rounds that take turns:

- inside: clocks around the model's forward, its losses, the backward pass, `zero_grad`, the clipping and the update
  tell what of a step is the model's own. The overhead is all the rest, divided by that.
- beside: after each step the same model is taken through the same batch bare, with torch's own clipping, and the steps
  are divided by the bare ones. This finds too what the trainer's code costs the model's own by what it drives out of
  the caches; but two steps differ by 5% on a virtual machine for no reason, so it is good to half a percent at best.

What comes only now and then, such as the norms of the weights or a burst to W&B, counts with all that it takes. Each
round has its own figures, which tell how far the machine can be trusted. With one thread (OMP_NUM_THREADS=1) seconds of
the CPU are the steadier clock. KEY=VALUE sets keys of the recipe. Ends with one JSON line.

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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from beside import conditions
from composer import Callback, Event, Logger, State, Trainer
from composer.core.precision import get_precision_context
from composer.utils import dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import AdamW, Optimizer

from data.manifest import Manifest
from model.composer_model import Batch, DbrxComposerModel
from train.build import build_device
from train.callbacks.all_in_one import AllInOne, members_of
from train.checkpoints.contents import Contents, dataset_tokenizer
from train.clipping import GradientClipping, local
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
WARMUP, ROUND, ROUNDS = 3, 10, 12  # steps before all rounds, and of each; one more before each that does not count
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Reading = dict[str, float]


class Step(NamedTuple):
    """Seconds by clock of one step of the trainer's, of the model's own in it, of the clipping among these, and of a
    bare step, if one came after it."""

    whole: Reading
    own: Reading
    clipping: Reading
    bare: Reading


class Own:
    """Adds up what the model's own parts of a step take."""

    def __init__(self) -> None:
        self.seconds = nothing()
        self.clipping = nothing()
        for owner, name in ((DbrxComposerModel, "__call__"), (DbrxComposerModel, "losses"), (Tensor, "backward")):
            self._time(owner, name)
        self._time(Optimizer, "zero_grad")
        self._time(GradientClipping, "after_train_batch", of_clipping=True)
        self._time(AdamW, "step")  # Composer takes the whole step inside it,
        self._time(Trainer, "_train_microbatches", -1)  # by this, which has the parts above

    def _time(self, owner: type, name: str, sign: int = 1, of_clipping: bool = False) -> None:
        action = getattr(owner, name)

        @wraps(action)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = read()
            result = action(*args, **kwargs)
            for clock, seconds in since(began, read()).items():
                self.seconds[clock] += sign * seconds
                self.clipping[clock] += seconds if of_clipping else 0.0
            return result

        setattr(owner, name, timed)

    def take(self) -> tuple[Reading, Reading]:
        """Of all since it was last taken, and of the clipping among it."""
        taken = self.seconds, self.clipping
        self.seconds, self.clipping = nothing(), nothing()
        return taken


class Beside(Callback):
    """Comes last: in every other round takes a bare step after each of the trainer's.

    Args:
        limit: of the gradients' norm; None: they are not clipped.
    """

    def __init__(self, own: Own, limit: float | None) -> None:
        self.steps: list[Step] = []
        self._own = own
        self._limit = limit
        self._batches: list[Batch] = []
        self._done = read()

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.BEFORE_FORWARD:
            self._batches.append(state.batch)
        if event == Event.BATCH_CHECKPOINT:
            began, (own, clipping) = read(), self._own.take()
            if self._is_beside():
                self._bare_step(state)
            self.steps.append(Step(since(self._done, began), own, clipping, since(began, read())))
            self._batches.clear()
            self._own.take()
            self._done = read()

    def _is_beside(self) -> bool:
        return (len(self.steps) - WARMUP) // (1 + ROUND) % 2 == 1

    def _bare_step(self, state: State) -> None:
        state.optimizers[0].zero_grad()
        for batch in self._batches:
            with get_precision_context(state.precision):
                loss = loss_of(state.model, batch) / len(self._batches)
            loss.backward()
        if self._limit is not None:
            clip(state.model, self._limit)
        state.optimizers[0].step()


def loss_of(model: DbrxComposerModel, batch: Batch) -> Tensor:
    """The model's own, without what is counted for the dashboards."""
    outputs = model(batch)
    return torch.stack([outputs.token_loss.mean, *model._routing_losses(outputs.routings).values()]).sum()


@torch.no_grad()
def clip(model: nn.Module, limit: float) -> None:
    """What `torch.nn.utils.clip_grad_norm_` does, which does not take tensors of two meshes; for one rank."""
    gradients = [local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    scale = (limit / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, scale)


def nothing() -> Reading:
    return dict.fromkeys(CLOCKS, 0.0)


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
        own = [f"run_root={folder}", f"max_duration={WARMUP + (1 + ROUND) * ROUNDS + 1}ba", "save_interval=1_000_000ba"]
        recipe, manifest = read_run(RECIPE, [*own, "eval_interval=1_000_000ba", *options.overrides])
        steps = train_beside(recipe, manifest)
    firsts = range(WARMUP + 1, WARMUP + (1 + ROUND) * ROUNDS, 1 + ROUND)
    rounds = [steps[first : first + ROUND] for first in firsts]
    alone_rounds, beside_rounds = rounds[::2], rounds[1::2]
    inside = {clock: figures(alone_rounds, "own", clock) for clock in CLOCKS}
    beside = {clock: figures(beside_rounds, "bare", clock) for clock in CLOCKS}
    for found, whose in ((inside, "the model's own part of it"), (beside, "a bare one")):
        for clock, (ratio, *by_round) in found.items():
            rounds_said = ", ".join(f"{one:.2%}" for one in by_round)
            print(f"{clock}: a step takes {ratio:.2%} longer than {whose} (by round: {rounds_said})")
    counted = list(chain.from_iterable(alone_rounds))
    clipping = share(counted, "clipping", "own", "wall")
    print(f"the clipping is {clipping:.2%} of the model's own part")
    paused = after_a_pause()
    print(f"a few lines of Python take {paused:.1f} times as long after half a second of waiting")
    result = {
        "benchmark": "step_overhead",
        **said,
        "overhead_inside": {clock: found[0] for clock, found in inside.items()},
        "overhead_beside": {clock: found[0] for clock, found in beside.items()},
        "by_round": {
            way: {clock: by_round for clock, (_, *by_round) in found.items()}
            for way, found in (("inside", inside), ("beside", beside))
        },
        "clipping": round(clipping, 4),
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
    beside = Beside(Own(), recipe.optimizer.clip_norm)
    trainer.state.callbacks = [AllInOne([*members_of(trainer.state), beside])]
    try:
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


def figures(rounds: list[list[Step]], way: str, clock: str) -> list[float]:
    """The overhead over the steps of all rounds, then over those of each."""
    return [round(share(some, "whole", way, clock) - 1, 4) for some in (list(chain.from_iterable(rounds)), *rounds)]


def share(steps: list[Step], what: str, of: str, clock: str) -> float:
    """What all steps took for one thing, by what they took for another."""
    return sum(getattr(step, what)[clock] for step in steps) / sum(getattr(step, of)[clock] for step in steps)


if __name__ == "__main__":
    main()
