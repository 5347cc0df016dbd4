"""Looks at every step before its update is made, so that a batch that would spoil the weights never reaches them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from composer import Callback, Logger, State
from composer.utils import dist

from data.mixture.plan import Plan
from model.composer_model import DbrxComposerModel
from model.statistics import StepStatistics
from train.callbacks.statistics import sum_over_ranks
from train.checkpoints.checkpointer import Checkpointer
from train.checkpoints.names import set_aside, steps_of
from train.checkpoints.verify import damage
from train.clipping import GradientClipping
from train.console import Console
from train.errors import Diverged
from train.events import Rollback, record, record_rollback
from train.history import checkpoint_before
from train.recipe import Recipe
from train.run_directory import RunDirectory
from train.spikes import RecentLosses, Spike

VERSION = 1
TITLE = "Loss spike"  # of alerts


class GoBack(Exception):
    """Raised on every rank: the run goes on from this checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(str(checkpoint))
        self.checkpoint = checkpoint


class SpikeGuard(Callback):
    """Judges each step by its losses over all ranks, between its backward passes and its update.

    Every rank has the same numbers, and so comes to the same decision.

    Args:
        model: what it has counted during the step is summed over the ranks here.
        clipping: knows the gradient norm of the step.
        checkpointer: saves the last good state of a run that ends here; its history knows the rollbacks.
        alert: takes a title and a text for who watches the run from elsewhere.
        before_going_back: called before checkpoints are read for a rollback, which may take as long as they are large.

    Attributes:
        statistics: of the step in hand, summed over all ranks.
        losses: of the step in hand, by name.
        skipped: whether the step in hand is made without its update.
    """

    statistics: StepStatistics
    losses: dict[str, float]

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        model: DbrxComposerModel,
        clipping: GradientClipping,
        checkpointer: Checkpointer,
        run: RunDirectory,
        console: Console,
        alert: Callable[[str, str], None],
        before_going_back: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config = recipe.on_spike
        self.batch = recipe.global_train_batch_size
        self.model = model
        self.clipping = clipping
        self.checkpointer = checkpointer
        self.run = run
        self.console = console
        self.alert = alert
        self.before_going_back = before_going_back
        self.recent = RecentLosses(plan.domains, config.window, config.min_history, config.threshold)
        self.in_a_row = 0  # spikes before the step in hand
        self.skips: list[tuple[int, int]] = []  # (first sample, end) of each step that was made without its update
        self.skipped = False

    def after_train_batch(self, state: State, logger: Logger) -> None:
        self.statistics = sum_over_ranks(self.model.step_statistics)
        self.losses = {name: float(loss) for name, loss in self.model.step_losses(self.statistics).items()}
        samples = self.samples(state)
        self.skipped = any(rollback.passes_over(*samples) for rollback in self.checkpointer.history.rollbacks)
        if not self.skipped:
            self.judge(state)
        if self.skipped:
            self.skips.append(samples)
            for parameter in state.model.parameters():
                parameter.grad = None  # then the optimizer passes it over: no decay, no moment, no count of steps

    def samples(self, state: State) -> tuple[int, int]:
        """The first sample of the step in hand, and the first of the next."""
        first = state.timestamp.sample.value
        return first, first + self.batch

    def judge(self, state: State) -> None:
        """Find out whether the step stands out, and do what the recipe says."""
        losses = self.statistics.loss_sum_by_domain.numpy()
        tokens = self.statistics.tokens_by_domain.double().numpy()
        spike = self.recent.judge(losses, tokens, self.losses["total"], self.clipping.norm)
        self.skipped = spike is not None and self.drops(spike, state)
        self.in_a_row = self.in_a_row + 1 if spike else 0
        if not self.skipped:
            self.recent.add(losses, tokens)

    def drops(self, spike: Spike, state: State) -> bool:
        """Whether the step's update is dropped.

        Raises:
            GoBack: the run rolls back instead.
            Diverged: the run ends instead.
        """
        action = self.config.action if spike.finite else self.config.non_finite
        if action == "rollback":
            self.roll_back(spike, state)
            action = "skip_batch"  # there is nothing to go back to
        if action == "stop":
            self.stop(spike, state)
        if action == "skip_batch" and self.in_a_row >= self.config.max_in_a_row:
            self.stop(spike, state, f"the {self.in_a_row} steps before it stood out as well")
        if action == "skip_batch" or not self.in_a_row:
            self.say(spike, state, "its update is dropped" if action == "skip_batch" else "training goes on")
            self.note(action, spike, state)
        return action == "skip_batch"

    def roll_back(self, spike: Spike, state: State) -> None:
        """Raises GoBack, if there is a checkpoint to go back to."""
        self.checkpointer.finish(must=False)
        self.before_going_back()
        history = self.checkpointer.history
        first, end = self.samples(state)
        first = max(0, first - self.config.skip_before * self.batch)
        end += self.config.skip_after * self.batch
        checkpoint = self.good_checkpoint_before(first)
        if checkpoint is None:
            return
        rollback = Rollback(state.timestamp.batch.value + 1, steps_of(checkpoint), first, end)
        if [known.back_to for known in history.rollbacks].count(rollback.back_to) >= self.config.max_in_a_row:
            self.stop(spike, state, f"the run went back to step {rollback.back_to:,} too often")
        self.say(spike, state, f"back to step {rollback.back_to:,}, without samples {first:,} to {end - 1:,}")
        if dist.get_global_rank() == 0:  # killed in between, the run comes to the same spike again
            self.checkpointer.forget_after(checkpoint)
            record_rollback(self.run, rollback, **described(spike))
        self.checkpointer.history = replace(history, rollbacks=(*history.rollbacks, rollback))
        dist.barrier()
        raise GoBack(checkpoint)

    def good_checkpoint_before(self, sample: int) -> Path | None:
        """As `checkpoint_before`; called on every rank. What is damaged is set aside."""
        while True:
            # Others may see the folder as it was a moment ago.
            leads = dist.get_global_rank() == 0
            found = [checkpoint_before(self.run, self.checkpointer.history, sample) if leads else None]
            dist.broadcast_object_list(found)
            checkpoint = found[0]
            if checkpoint is None or not (wrong := damage(checkpoint, self.console.say)):
                return checkpoint
            self.console.say(f"warning: {wrong[0]}; {checkpoint.name} is set aside")
            if dist.get_global_rank() == 0:
                set_aside(checkpoint)
            dist.barrier()

    def stop(self, spike: Spike, state: State, because: str = "") -> NoReturn:
        """Save the state before this step, which its gradients have not reached, and end the run."""
        done = state.timestamp.batch.value
        self.note("stop", spike, state)
        if state.optimizers[0].state:  # it has none before its first update, and gets none beside gradients
            self.checkpointer.save_unless_saved(state)
        self.alert(TITLE, f"step {done + 1:,}: {spike}; the run stops")
        first, end = self.samples(state)
        key = f"on_spike.{'action' if spike.finite else 'non_finite'}"
        raise Diverged(
            f"step {done + 1:,}: {spike}{f'; {because}' if because else ''}; it is not learned, and step {done:,} is "
            f"the last of {self.run.path}. The same command comes to the same samples again: look at them (brickyard "
            f"plan RECIPE --samples {first}:{end}), and have them skipped ({key}: skip_batch, or rollback), or change "
            "what made it"
        )

    def say(self, spike: Spike, state: State, then: str) -> None:
        line = f"step {state.timestamp.batch.value + 1:,}: {spike}; {then}"
        self.console.say(line)
        self.alert(TITLE, line)

    def note(self, action: str, spike: Spike, state: State) -> None:
        """Among the run's events."""
        if dist.get_global_rank() == 0:
            first, end = self.samples(state)
            step = state.timestamp.batch.value + 1
            record(self.run, action, step=step, first=first, end=end, **described(spike))

    def state_dict(self) -> dict[str, Any]:
        content = {"version": VERSION, "recent": self.recent.dump(), "in_a_row": self.in_a_row, "skips": self.skips}
        return {"spikes": json.dumps(content)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        content = json.loads(state["spikes"])
        assert content["version"] == VERSION
        self.recent.load(content["recent"])
        self.in_a_row = content["in_a_row"]
        self.skips = [(first, end) for first, end in content["skips"]]


def described(spike: Spike) -> dict[str, Any]:
    """For JSON, which has no NaN and no infinity: these are text there."""
    numbers = {name: getattr(spike, name) for name in ("loss", "gradient_norm", "expected", "most")}
    shown = {
        name: number if number is None or math.isfinite(number) else str(number) for name, number in numbers.items()
    }
    return {**shown, "domains": [name for name, *_ in spike.domains]}
