"""Checkpoints that are whole or not there: written beside, then renamed.

They are in torch's sharded format (torch.distributed.checkpoint), which loads again on another number of ranks.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from composer import Callback, Event, Logger, State, Time
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint

from train.checkpoint_contents import Contents
from train.checkpoint_files import PARTIAL, name_of, newest_checkpoint, steps_of, whole_checkpoints
from train.history import History


class Checkpointer(Callback):
    """Saves every `interval` steps and at the end of the run.

    Args:
        folder: where checkpoints lie.
        interval: optimizer steps between two of them.
        keep_last: the newest this many stay; older ones are removed once a newer one is whole.
        history: the curricula of the run, which each checkpoint holds.
        contents: the model's config and the tokenizer, which each checkpoint holds as well.
        before_save: called one after another on every rank before a checkpoint is written.
    """

    def __init__(
        self,
        folder: Path,
        interval: int,
        keep_last: int,
        history: History,
        contents: Contents,
        before_save: Sequence[Callable[[], None]] = (),
    ) -> None:
        self.folder = folder
        self.interval = interval
        self.keep_last = keep_last
        self.history = history
        self.contents = contents
        self.before_save = before_save

    def init(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for partial in self.folder.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial, ignore_errors=True)  # a save that was killed
        dist.barrier()

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        if event == Event.INIT:
            self.init(state, logger)
        # After evaluation, so that what is logged for this step is complete when the step is saved.
        elif event == Event.BATCH_CHECKPOINT:
            assert state.max_duration is not None
            finished = state.timestamp >= Time.from_input(state.max_duration)
            if finished or state.timestamp.batch.value % self.interval == 0:
                self.save(state)

    def save_unless_saved(self, state: State) -> None:
        """Save this step, unless it has just been saved."""
        newest = newest_checkpoint(self.folder)
        if newest is None or steps_of(newest) != state.timestamp.batch.value:
            self.save(state)

    def save(self, state: State) -> None:
        """Write this step's checkpoint and drop those that are too old."""
        for write in self.before_save:
            write()
        name = name_of(state.timestamp.batch.value)
        partial = self.folder / f"{PARTIAL}{name}"
        written = save_checkpoint(state, str(partial / "__{rank}_0.distcp"))  # in a folder that Composer names
        dist.barrier()  # each rank has seen that its file is there
        if dist.get_global_rank() == 0:
            assert written is not None
            self.history.write(Path(written).parent, state.timestamp.sample.value)
            self.contents.write(Path(written).parent)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            Path(written).parent.replace(self.folder / name)
            partial.rmdir()
            for old in whole_checkpoints(self.folder)[: -self.keep_last]:
                shutil.rmtree(old)
        dist.barrier()
