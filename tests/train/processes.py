"""Run `brickyard train` in processes of its own, as a user would, with the slow imports paid once.

Children are forked from a server that has imported Composer and Streaming and done nothing else: no thread has been
started in it that a fork would lose.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    # Composer imports its algorithms at the first event of a run, which takes half a second.
    [
        "tests.train.known_cpu",
        "train.run",
        "launch.cli",
        "torch.distributed.checkpoint",
        "composer.algorithms",
        "wandb",
    ]
)
Prepare = Callable[[], Any]


def start(arguments: Sequence[str], log: Path, ranks: int = 1, before: Prepare | None = None) -> list[BaseProcess]:
    """Start `brickyard ARGUMENTS` on this many ranks; `before` is called first in each."""
    port = free_port()
    processes = [
        CONTEXT.Process(target=child, args=(list(arguments), str(log), rank, ranks, port, before))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return list(processes)


def finish(processes: Sequence[BaseProcess], timeout: float = 240) -> list[int | None]:
    """Wait for all and return their exit codes (negative: killed by that signal)."""
    for process in processes:
        process.join(timeout)
        if process.is_alive():
            end_all(processes)
            raise TimeoutError(f"a rank did not end: {processes}")
    return [process.exitcode for process in processes]


def end_all(processes: Sequence[BaseProcess]) -> None:
    """Each says where it is, on stderr, and is killed."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGUSR1)
            process.join(1)
            process.kill()
            process.join()


def brickyard(arguments: Sequence[str], log: Path, ranks: int = 1, before: Prepare | None = None) -> list[int | None]:
    """Run to the end."""
    return finish(start(arguments, log, ranks, before))


def child(arguments: list[str], log: str, rank: int, ranks: int, port: int, before: Prepare | None) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        NODE_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    # As where a user starts it: a dataloader worker watches its parent, which must be the run and not the server.
    multiprocessing.set_start_method("fork", force=True)
    # Nor is what a killed run leaves in shared memory to be removed when the tests end: another may use its name then.
    resource_tracker._resource_tracker._fd = resource_tracker._resource_tracker._pid = None
    import torch

    from launch.cli import main

    torch.set_num_threads(1)
    if before:
        before()
    with Path(log).open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = main(arguments)
    raise SystemExit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_while_saving(step: int, before: str = "publish") -> Prepare:
    """Kill the process without warning in the save of `step`, before this function of train/checkpoints/writing.py is
    called; `publish` gives a checkpoint that is written its name."""
    return Killer(step, before)


class Killer:
    """Picklable, so that it can be sent to the child. Signals every process that comes there, or one rank alone."""

    def __init__(self, step: int, before: str, number: int = signal.SIGKILL, rank: str | None = None) -> None:
        self.step = step
        self.before = before
        self.number = number
        self.rank = rank

    def __call__(self) -> None:
        from train.checkpoints import writing

        do, name = getattr(writing, self.before), f"ba{self.step:08d}"

        def do_or_die(*arguments: Any) -> Any:
            if any(name in str(argument) for argument in arguments) and self.rank in (None, os.environ["RANK"]):
                os.kill(os.getpid(), self.number)
            return do(*arguments)

        setattr(writing, self.before, do_or_die)


class Poison:
    """Multiplies the loss of each microbatch that holds one of the samples `first <= n < end`, on whatever rank."""

    def __init__(self, first: int, end: int, factor: float, then: Prepare | None = None) -> None:
        self.first = first
        self.end = end
        self.factor = factor
        self.then = then

    def __call__(self) -> None:
        from model.composer_model import Batch, DbrxComposerModel, DbrxOutput

        forward = DbrxComposerModel.forward

        def poisoned(model: DbrxComposerModel, batch: Batch) -> DbrxOutput:
            outputs = forward(model, batch)
            samples = batch.get("sample")  # held-out text has none
            if samples is None or not ((samples >= self.first) & (samples < self.end)).any():
                return outputs
            assert outputs.token_loss is not None
            mean, loss_BT, counted_BT = outputs.token_loss
            spoilt = type(outputs.token_loss)(mean * self.factor, loss_BT * self.factor, counted_BT)
            return outputs._replace(token_loss=spoilt)

        DbrxComposerModel.forward = poisoned  # type: ignore[method-assign]
        if self.then:
            self.then()


class WithoutUpdates:
    """Leaves out the optimizer, and what moves with it, in some steps: as if these had never been tried."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def __call__(self) -> None:
        from model.composer_model import DbrxComposerModel
        from train.callbacks.randomness import StepSeed
        from train.optim import ShardedAdamW

        begin, here = StepSeed.batch_start, [0]

        def begin_and_note(callback: StepSeed, state: Any, logger: Any) -> None:
            here[0] = state.timestamp.batch.value + 1
            begin(callback, state, logger)

        StepSeed.batch_start = begin_and_note  # type: ignore[method-assign]
        update, finish_step = ShardedAdamW.step, DbrxComposerModel.finish_step

        def maybe_update(optimizer: ShardedAdamW, closure: Callable[[], float]) -> Any:
            return closure() if here[0] in self.steps else update(optimizer, closure)  # Composer's goes backward

        def maybe_finish(model: DbrxComposerModel, statistics: Any) -> None:
            if here[0] not in self.steps:
                finish_step(model, statistics)

        ShardedAdamW.step = maybe_update  # type: ignore[method-assign]
        DbrxComposerModel.finish_step = maybe_finish  # type: ignore[method-assign]
