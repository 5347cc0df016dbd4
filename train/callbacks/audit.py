"""Records what the model is really given, for `brickyard audit`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from composer import Callback, Logger, State
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor

from data.mixture.plan import Plan
from train.audit.records import RECORD, Part, Start, starts_in, token_hashes, write_part

# A file holds no more than this: the newest are in memory only.
PART_STEPS = 500
PART_RECORDS = 1 << 16
PLACE = ("sample", "domain", "epoch", "row")


class AuditRecorder(Callback):
    """Writes one start's records of this rank under `folder`.

    Args:
        batch: samples of one step, over all ranks.
    """

    def __init__(self, folder: Path, plan: Plan, batch: int) -> None:
        self.folder = folder
        self.plan = plan
        self.batch = batch
        self._start: Start | None = None
        self._microbatches: list[dict[str, Tensor]] = []  # of the step in hand
        self._steps: list[NDArray[np.void]] = []  # RECORDs of each step that is in no file yet

    def fit_start(self, state: State, logger: Logger) -> None:
        """A start of the run, or one more after it went back to a checkpoint."""
        self.flush()
        self._microbatches.clear()
        number = [0]
        if dist.get_global_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = [1 + max((number for number, *_ in starts_in(self.folder)), default=0)]
        dist.broadcast_object_list(number)
        step, sample = state.timestamp.batch.value, state.timestamp.sample.value
        self._start = Start(number[0], step, sample, dist.get_world_size(), self.batch, self.plan.fingerprint)
        (self.folder / self._start.name).mkdir(exist_ok=True)

    def before_forward(self, state: State, logger: Logger) -> None:
        self._microbatches.append({name: state.batch[name] for name in (*PLACE, "tokens")})

    def batch_end(self, state: State, logger: Logger) -> None:
        step = state.timestamp.batch.value
        self._steps.append(np.concatenate([records_of(batch, step) for batch in self._microbatches]))
        self._microbatches.clear()
        if len(self._steps) == PART_STEPS or sum(map(len, self._steps)) >= PART_RECORDS:
            self.flush()

    def close(self, state: State, logger: Logger) -> None:
        self.flush()

    def flush(self) -> None:
        """Write the steps that are in no file yet. Comes before a checkpoint is saved: what counts is on disk then."""
        if not self._steps:
            return
        assert self._start is not None
        records = np.concatenate(self._steps)
        part = Part(self._start, dist.get_global_rank(), int(records["step"][0]), int(records["step"][-1]))
        write_part(self.folder, part, records, self.plan.domains)
        self._steps.clear()


def records_of(batch: dict[str, Tensor], step: int) -> NDArray[np.void]:
    """A microbatch's RECORDs."""
    records = np.empty(len(batch["tokens"]), RECORD)
    records["step"] = step
    for name in PLACE:
        records[name] = batch[name].cpu().numpy()
    records["tokens"] = token_hashes(batch["tokens"].cpu().numpy())
    return records
