"""Saves a run every so many steps, beside training, one checkpoint at a time.

Tensors are copied while the next step's forward and backward run, which only read them; its update waits until they
are. Then files are written, however long that takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from composer import Callback, Event, Logger, State, Time

from train.checkpoints.contents import Contents
from train.checkpoints.names import PARTIAL, newest_checkpoint, remove, remove_leftovers, steps_of, whole_checkpoints
from train.checkpoints.remote import RemoteRun
from train.checkpoints.retention import Retention
from train.checkpoints.saving import Saving
from train.checkpoints.state import FILE, state_of
from train.checkpoints.tensors import HostCopy, tensors_of
from train.checkpoints.writing import (
    SaveFailed,
    Snapshot,
    copy_checkpoint,
    drop_older,
    point_to,
    reason,
    write_checkpoint,
)
from train.errors import RecipeError
from train.history import History

MOST_FAILURES = 3  # in a row; then the run ends
LAST_SAVE = 20.0  # seconds that a run which has failed gives to the save in hand
LONGEST = timedelta(hours=1)  # that one rank waits for another in a save


class Checkpointer(Callback):
    """Saves every `interval` steps and at the end of the run.

    A save that fails is said and training goes on; the third in a row ends the run, and so does one that the run waits
    for: the last, or one that a signal asked for. A copy that fails is said, and ends the run only if it is waited for.

    Args:
        folder: where checkpoints lie.
        interval: optimizer steps between two of them.
        retention: which of them stay.
        history: the curricula of the run, which each checkpoint holds.
        contents: the model's config and the tokenizer, which each checkpoint holds as well.
        patience: seconds that a rank has to answer the others, which wait for a save together.
        remote: where checkpoints are copied to as well.
        asynchronous: write files beside training; if not, each save is waited for.
        say: takes a line for the console.
        before_save: called one after another on every rank before a checkpoint is written.
        while_waiting: called every second that training waits for a save.
        stall: a context for what training waits for, a save's begin and copy among it.
        saved: told on rank 0 of each checkpoint on the disk: its step, and the seconds since its save began.
    """

    def __init__(
        self,
        folder: Path,
        interval: int,
        retention: Retention,
        history: History,
        contents: Contents,
        patience: float,
        *,
        remote: RemoteRun | None = None,
        asynchronous: bool = True,
        say: Callable[[str], None] = print,
        before_save: Sequence[Callable[[], None]] = (),
        while_waiting: Callable[[], None] = lambda: None,
        stall: Callable[[], AbstractContextManager[None]] = nullcontext,
        saved: Callable[[int, float], None] = lambda step, seconds: None,
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.retention = retention
        self.history = history
        self.contents = contents
        self.patience = patience
        self.remote = remote
        self.asynchronous = asynchronous
        self.say = say
        self.before_save = before_save
        self.while_waiting = while_waiting
        self.stall = stall
        self.saved = saved
        self.failures = 0  # in a row
        self.saved_step = 0  # the newest step on the disk: ranks may see its folder at different times
        self._copies = HostCopy()
        self._saving: Saving | None = None
        self._group: dist.ProcessGroup | None = None
        self._waiting: dist.ProcessGroup | None = None

    def init(self, state: State, logger: Logger) -> None:
        # Training sends on others meanwhile, and so do those who wait.
        self._group = dist.new_group(backend="gloo", timeout=LONGEST)
        self._waiting = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.patience))
        if dist.get_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, PARTIAL)  # of a save that was killed
        dist.barrier(self._group)

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self.init(state, logger)
        elif event == Event.FIT_START:
            self.saved_step = state.timestamp.batch.value  # which it was loaded from
        # After evaluation, so that what is logged for this step is complete when the step is saved.
        elif event == Event.BATCH_CHECKPOINT:
            assert state.max_duration is not None
            finished = state.timestamp >= Time.from_input(state.max_duration)
            if finished or state.timestamp.batch.value % self.interval == 0:
                with self.stall():
                    self.save(state, wait=finished)

        elif event == Event.AFTER_TRAIN_BATCH and self._saving:
            with self.stall():
                self._saving.wait_for_copy()

    def close(self, state: State, logger: Logger) -> None:
        """However the run ends, what is half written is written to its end, unless that takes long: it may wait for a
        rank that waits for this one to end."""
        if self._saving:
            self._saving.wait(at_most=LAST_SAVE)

    def save_unless_saved(self, state: State) -> None:
        """Save this step, unless it has just been saved, and wait until it is on the disk.

        Raises:
            RecipeError: it can't be saved.
        """
        self.finish(must=False)
        if self.saved_step != state.timestamp.batch.value:
            self.save(state, wait=True)

    def save(self, state: State, wait: bool = False) -> None:
        """Begin to save this step; with `wait`, until it is on the disk. Called on every rank.

        Raises:
            RecipeError: it can't be saved, or the one before could not and was one too many.
        """
        self.finish(must=False)
        for write in self.before_save:
            write()
        rest, history, samples = state_of(state), self.history, state.timestamp.sample.value
        tensors = tensors_of(state.model, state.optimizers[0])
        step, began = state.timestamp.batch.value, time.monotonic()

        def write_rest(checkpoint: Path) -> None:
            (checkpoint / FILE).write_text(json.dumps(rest, indent=1) + "\n")
            history.write(checkpoint, samples)
            self.contents.write(checkpoint)
            self.retention.mark(checkpoint, step)

        self._saving = Saving(
            step,
            self._copies.of(tensors),
            lambda copies: self.write(Snapshot(step, tensors, copies, write_rest), began),
        )
        if wait or not self.asynchronous:
            self.finish(must=wait)

    def forget_after(self, checkpoint: Path) -> None:
        """Remove newer ones, here and at the remote, for the run goes on from this one another way. Called on rank 0,
        with no save in hand.

        Raises:
            RecipeError: those at the remote can't be removed; the ones here are still there.
        """
        if self.remote:
            self.remote.forget_after(steps_of(checkpoint))
        for newer in whole_checkpoints(self.folder):
            if steps_of(newer) > steps_of(checkpoint):
                remove(newer)
        point_to(checkpoint)

    def write(self, snapshot: Snapshot, began: float) -> None:
        """In a thread of its own."""
        assert self._group is not None
        checkpoint = write_checkpoint(self.folder, snapshot, self._group)
        if dist.get_rank() == 0:
            try:
                self.saved(snapshot.step, time.monotonic() - began)
            except Exception as error:  # such as no room for a list of events; the others wait
                self.say(f"warning: the save of step {snapshot.step:,} can't be noted ({reason(error)})")
        drop_older(self.folder, self.retention, self._group)
        if self.remote:
            copy_checkpoint(self.remote, checkpoint, self.folder.parent, self.retention, self._group)

    def finish(self, must: bool) -> None:
        """Wait for the save in hand, if there is one.

        Raises:
            RecipeError: it has failed, and either `must` not or was one too many in a row.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        error = saving.wait_together(self._waiting, self.while_waiting)
        if error is None or (isinstance(error, SaveFailed) and error.written):
            self.saved_step = saving.step
        if error is None:
            self.failures = 0
            return
        if not isinstance(error, SaveFailed):
            raise error
        self.failures = 0 if error.written else self.failures + 1
        newest = newest_checkpoint(self.folder)
        good = f"the newest good one is {newest}" if newest else "there is none yet"
        failed = f"the checkpoint of step {saving.step:,} {error}; {good}"
        if must or self.failures == MOST_FAILURES:
            raise RecipeError(f"{failed}; mend that, and the same command goes on from there")
        self.say(f"warning: {failed}; training goes on")
