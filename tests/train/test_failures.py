"""What comes from outside ends every rank, with one sentence, and costs nothing that was saved (docs/failures.md)."""

import errno
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from wandb_server import WandbServer

from data.errors import DataError
from train.wandb_log import logs_of, newest_row
from train.wish import TOGETHER

from metric_rows import rows, step_rows
from processes import Prepare, brickyard, finish, start

OPTIONS = ("wandb.mode=disabled", "max_duration=400ba", "save_interval=2ba", "eval_interval=400ba")


def command(workshop: SimpleNamespace, name: str, *more: str) -> list[str]:
    return ["train", str(workshop.recipe), f"run_name={name}", *OPTIONS, *more]


def wait_for_step(run: Path, step: int, processes: list[BaseProcess]) -> None:
    deadline = time.monotonic() + 120
    while not ((run / "metrics.jsonl").exists() and f'"batch": {step},' in (run / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline and all(process.is_alive() for process in processes)
        time.sleep(0.02)


def run_and_spoil(
    workshop: SimpleNamespace, name: str, spoil: Callable[[list[BaseProcess]], None], *more: str, ranks: int = 2
) -> tuple[list[int | None], str]:
    """(exit codes, what was said) of ranks that were started by nobody in particular, and spoilt after step 3."""
    log = workshop.root / f"{name}.log"
    processes = start(command(workshop, name, *more), log, ranks=ranks)
    wait_for_step(workshop.root / "runs" / name, 3, processes)
    spoil(processes)
    return finish(processes), log.read_text()


def last_line(said: str) -> str:
    return [line for line in said.splitlines() if line.startswith("brickyard")][-1]


def test_a_rank_that_is_killed_ends_the_others_at_once(workshop: SimpleNamespace) -> None:
    began = time.monotonic()
    codes, said = run_and_spoil(workshop, "lonely", lambda ranks: ranks[1].kill())
    assert codes == [1, -signal.SIGKILL]
    assert "another rank has ended" in last_line(said)
    assert time.monotonic() - began < 200  # and not dist_timeout, ten minutes


def loop_for_ever() -> None:
    """In rank 1, from its fourth step on."""
    from train.callbacks.randomness import StepSeed

    seed = StepSeed.batch_start

    def lost_in_python(self: Any, state: Any, logger: Any) -> None:
        if state.timestamp.batch == 3 and os.environ["RANK"] == "1":
            print("lost", flush=True)
            while True:
                pass
        seed(self, state, logger)

    StepSeed.batch_start = lost_in_python  # type: ignore[method-assign]


def test_a_rank_that_loops_says_where_and_ends_the_others(workshop: SimpleNamespace) -> None:
    log = workshop.root / "lost.log"
    codes = brickyard(command(workshop, "lost", "dist_timeout=15"), log, ranks=2, before=loop_for_ever)
    assert codes == [1, 1]
    assert "in lost_in_python" in log.read_text()  # its stack
    assert "another rank has" in last_line(log.read_text())


def fail_in_a_save() -> None:
    """Rank 1 fails in step 5, when its part in the save of step 4 waits for what never comes."""
    from train.callbacks.randomness import StepSeed
    from train.checkpoints import checkpointer, writing

    checkpointer.LAST_SAVE = 1.0
    seed, write = StepSeed.batch_start, writing.write_tensors

    def fail(self: Any, state: Any, logger: Any) -> None:
        if state.timestamp.batch == 5 and os.environ["RANK"] == "1":
            raise ValueError("rank 1 has had enough")
        seed(self, state, logger)

    def wait_for_ever(*arguments: Any) -> Any:
        if os.environ["RANK"] == "1":
            threading.Event().wait()
        return write(*arguments)

    StepSeed.batch_start, writing.write_tensors = fail, wait_for_ever  # type: ignore[method-assign]


def test_a_save_in_hand_does_not_keep_a_rank_that_has_failed(workshop: SimpleNamespace) -> None:
    """Another rank may wait for this one to end, and this one's save for that rank."""
    log = workshop.root / "kept.log"
    processes = start(command(workshop, "kept", "save_interval=4ba"), log, ranks=2, before=fail_in_a_save)
    assert finish(processes, timeout=120) == [1, 1]
    assert "rank 1 failed: ValueError: rank 1 has had enough" in log.read_text()


def test_asked_before_the_first_step_it_ends_with_nothing_to_save(workshop: SimpleNamespace) -> None:
    log = workshop.root / "early.log"
    processes = start(command(workshop, "early"), log, ranks=2)
    deadline = time.monotonic() + 120
    while "steps of 256 tokens" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for process in processes:
        process.terminate()
    assert finish(processes) == [143, 143]
    assert last_line(log.read_text()) == "brickyard train: interrupted"
    assert not list(workshop.root.glob("runs/early/checkpoints/ba*"))


def test_asked_twice_it_ends_at_once(workshop: SimpleNamespace) -> None:
    """Also where it waits for a rank that never comes."""
    log = workshop.root / "twice.log"
    processes = start(command(workshop, "twice"), log, ranks=2, before=loop_for_ever)
    deadline = time.monotonic() + 120
    while "lost\n" not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for rank in (0, 1):
        processes[rank].terminate()
        processes[rank].join(2 * TOGETHER)
        assert processes[rank].is_alive()  # its step has no end
        processes[rank].terminate()
        processes[rank].join(10)
        assert processes[rank].exitcode == 143


def test_a_dataloader_worker_that_is_killed_is_named(workshop: SimpleNamespace) -> None:
    def kill_worker(ranks: list[BaseProcess]) -> None:
        children = psutil.Process(ranks[1].pid).children()
        next(child for child in children if "resource_tracker" not in " ".join(child.cmdline())).kill()

    codes, said = run_and_spoil(workshop, "workerless", kill_worker, "dataset.num_workers=1")
    assert codes == [1, 1]
    assert "a dataloader worker is killed by signal: Killed" in last_line(said)


def fail_on_one_rank() -> None:
    from train.callbacks.randomness import StepSeed

    def fail(self: Any, state: Any, logger: Any) -> None:
        if state.timestamp.batch == 3 and os.environ["RANK"] == "1":
            raise ValueError("a fault of ours")

    StepSeed.batch_start = fail  # type: ignore[method-assign]


def test_a_rank_that_fails_tells_the_others_why(workshop: SimpleNamespace) -> None:
    log = workshop.root / "faulty.log"
    assert brickyard(command(workshop, "faulty"), log, ranks=2, before=fail_on_one_rank) == [1, 1]
    assert "brickyard train: rank 1 failed: ValueError: a fault of ours" in log.read_text()


def test_a_shard_that_goes_ends_the_run_and_costs_nothing(workshop: SimpleNamespace) -> None:
    """Damaged, then gone: two ranks with workers say one sentence; with the shard back, the run is what it would be."""
    dataset = workshop.root / "frail"
    shutil.copytree(workshop.dataset, dataset)
    options = (f"dataset.path={dataset}", "dataset.num_workers=1", "max_duration=12ba", "save_interval=2ba")
    for number, path in enumerate(sorted(dataset.glob("*/train/*.mds"))):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        if number % 2:
            path.write_bytes(content)
    log = workshop.root / "frail.log"
    codes = brickyard(command(workshop, "frail", *options), log, ranks=2)
    assert codes == [2, 2]
    said = log.read_text()
    assert "it is not what was written (its hash differs); restore it, or delete it and" in said
    assert said.count("brickyard train: ") == 1
    assert "Traceback" not in log.read_text()


def no_room() -> None:
    """/dev/full has none, ever: what takes the place of metrics.jsonl leads there."""
    from train.callbacks.metrics_file import MetricsFile

    open_after = MetricsFile.open_after

    def open_full(self: MetricsFile, batch: int) -> None:
        open_after(self, batch)
        if batch == 4:
            self._file = Path("/dev/full").open("a", buffering=1)  # noqa: SIM115

    MetricsFile.open_after = open_full  # type: ignore[method-assign]


def test_a_full_disk_is_said_and_costs_nothing(workshop: SimpleNamespace) -> None:
    run, log = workshop.root / "runs" / "no-room", workshop.root / "no-room.log"
    assert brickyard(command(workshop, "no-room", "max_duration=4ba"), log) == [0]
    assert brickyard(command(workshop, "no-room", "max_duration=8ba"), log, ranks=2, before=no_room) == [2, 1]
    assert f"train: {run}/metrics.jsonl: No space left on device; make room, and the same" in log.read_text()
    assert brickyard(command(workshop, "no-room", "max_duration=8ba"), log) == [0]
    assert [row["batch"] for row in step_rows(run)] == [*range(1, 9)]


def no_room_at_the_start() -> None:
    import train.run_directory

    def write(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    train.run_directory.write_whole = write


def test_so_is_one_that_is_full_when_a_run_begins(workshop: SimpleNamespace) -> None:
    log = workshop.root / "no-room-yet.log"
    assert brickyard(command(workshop, "no-room-yet"), log, before=no_room_at_the_start) == [2]
    assert "No space left on device; make room" in log.read_text() and "Traceback" not in log.read_text()


def deaf_rank_0() -> None:
    """As one whose collective waits for a rank that is gone, under NCCL."""
    import train.run

    def fit(*arguments: Any) -> None:
        with train.run.together():
            if os.environ["RANK"] == "1":
                raise DataError("dataset: a shard that only this rank reads is gone")
            time.sleep(600)

    train.run.fit = fit


def test_a_mistake_is_said_where_rank_0_never_hears_of_it(workshop: SimpleNamespace) -> None:
    log = workshop.root / "unheard.log"
    started = start(command(workshop, "unheard", "max_duration=4ba"), log, ranks=2, before=deaf_rank_0)
    started[1].join(120)
    started[0].kill()
    assert finish(started)[1] == 2
    assert "dataset: a shard that only this rank reads is gone\n" in log.read_text()


def wandb_at(port: int, answer: float = 1.0) -> None:
    """W&B, which has a key, is there; nobody waits for it for long."""
    import train.wandb_run

    os.environ.update(WANDB_BASE_URL=f"http://127.0.0.1:{port}", WANDB_API_KEY=40 * "0")
    train.wandb_run.ANSWER = answer
    train.wandb_run.LAST_LINKS = train.wandb_run.GOODBYE = 1.0


def deaf() -> None:
    """W&B's address is one where nobody ever answers."""
    ear = socket.create_server(("127.0.0.1", 0))
    EARS.append(ear)
    wandb_at(ear.getsockname()[1])


def crowded() -> None:
    """It is one where no more callers are let in."""
    ear = socket.create_server(("127.0.0.1", 0), backlog=0)
    EARS.append(ear)
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(ear.getsockname())
        EARS.append(caller)
    wandb_at(ear.getsockname()[1])


def falling_silent() -> None:
    """W&B answers when the run begins, and never again."""
    import train.wandb_run

    wandb_at(WandbServer(falls_silent=True).server_address[1], answer=30.0)
    train.wandb_run.GOODBYE = 3 * train.wandb_run.FLUSH  # its process ends with ours, and writes the rows before


EARS: list[socket.socket] = []  # kept open
SHORT = "max_duration=30ba"


@pytest.fixture(scope="module")
def without_wandb(workshop: SimpleNamespace) -> list[dict[str, Any]]:
    """The rows of a run that has nothing to do with W&B."""
    assert brickyard(command(workshop, "without-wandb", SHORT), workshop.root / "without-wandb.log") == [0]
    return rows(workshop.root / "runs" / "without-wandb")


@pytest.mark.parametrize(
    ("before", "warning", "folder"),
    [
        (deaf, "W&B can't be reached", "offline-run-*"),
        (crowded, "W&B can't be reached", "offline-run-*"),
        (falling_silent, "W&B does not answer", "run-*"),
    ],
)
def test_without_an_answer_of_wandb_a_run_is_the_same(
    workshop: SimpleNamespace,
    without_wandb: list[dict[str, Any]],
    before: Prepare,
    warning: str,
    folder: str,
) -> None:
    """And its rows wait in W&B's files."""
    name = before.__name__
    run, log = workshop.root / "runs" / name, workshop.root / f"{name}.log"
    assert brickyard(command(workshop, name, "wandb.mode=auto", SHORT), log, before=before) == [0], log.read_text()
    assert log.read_text().count(f"warning: {warning}") == 1
    assert rows(run) == without_wandb
    deadline = time.monotonic() + 60  # W&B's process outlives a run that is a test's
    while newest_row(logs_of(run / "wandb", (run / "wandb_id").read_text())).get("loss/total") != 30:
        assert time.monotonic() < deadline, "the last row never came"
        time.sleep(0.1)
    assert list(run.glob(f"wandb/{folder}/*.wandb"))


def test_without_the_process_of_wandb_a_run_is_the_same(
    workshop: SimpleNamespace, without_wandb: list[dict[str, Any]]
) -> None:
    def kill_wandb(ranks: list[BaseProcess]) -> None:
        [process] = [one for one in psutil.process_iter(["name"]) if is_wandb_of(one, ranks[0])]
        process.kill()

    codes, said = run_and_spoil(workshop, "bereft", kill_wandb, "wandb.mode=offline", SHORT, ranks=1)
    assert codes == [0], said
    assert said.count("warning: W&B is gone") == 1, said
    assert rows(workshop.root / "runs" / "bereft") == without_wandb


def is_wandb_of(process: psutil.Process, rank: BaseProcess) -> bool:
    """W&B's client starts it beside the rank, and it watches the rank's process id."""
    try:
        return process.info["name"] == "wandb-core" and str(rank.pid) in process.cmdline()
    except psutil.NoSuchProcess:  # it has ended
        return False
