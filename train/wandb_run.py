"""The run in Weights & Biases: one run under one id, however often it is resumed, with tokens as the x axis.

Composer's own WandBLogger calls `Run.get_url`, which wandb 0.31 no longer has; and it would log each loss one step
before ours.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, cast

import wandb
from PIL.Image import Image

from train.callbacks.metrics_file import iterate_rows, rows_from
from train.dashboard import Dashboard, news, warn
from train.errors import RecipeError, Stopped
from train.events import START
from train.recipe import Recipe
from train.run_directory import RunDirectory
from train.wandb_log import logs_of, mend, newest_row

ANSWER = 30.0  # seconds that W&B has to answer when a run begins
LAST_LINKS = 15.0  # seconds to take the last artifacts when it ends
GOODBYE = 60.0  # and then to send the last rows
HOLD = 5.0  # seconds that a row may wait here
FLUSH = 2.0  # and then in W&B's process before it is in its file
CARDS = ("data_card.md", "data_card.html")  # in a dataset's folder
BARE = ("batch", "samples", "skipped")
# What a metric comes to in W&B's table of runs, by group, as METRIC.min and so on; None: its last value, as METRIC.
SUMMARIES = {
    "loss": "min,last",
    "domain": "min,last",
    "mixture": None,
    "moe": None,
    "throughput": "mean,last",
    "optimizer": None,
    "memory": "max,last",
    "eval": "min,last",
}
Mode = Literal["offline", "online", "disabled"]


class WandbRun(Dashboard):
    """Sends rows to W&B, or writes them to its files alone; does nothing where the mode is `disabled`.

    W&B takes no step twice. Its files in the run's folder say which steps it has: those of a run that was killed are
    not shown again when they are trained again, and what its process could not write any more is shown when the run
    goes on, from metrics.jsonl.
    """

    def __init__(self, recipe: Recipe, run: RunDirectory, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its makers
        os.environ.setdefault("WANDB_DATA_DIR", str(run.path.resolve() / "wandb"))  # of artifacts that wait
        self.metrics = run.metrics
        self._last: dict[str, int] = {}  # metric: the step of its newest value
        self._behind = False
        self._held: list[tuple[int, dict[str, Any]]] = []  # (step, values) not yet handed over
        self._handed_over = time.monotonic()
        files = logs_of(run.path / "wandb", run.wandb_id())
        self._look_at(files)
        self._threads: list[threading.Thread] = []
        self._run = begin(recipe, run, config)
        newest = max(self._last.values(), default=first_step_of(run, len(files)))
        self._first = max(self._run.starting_step if self._run else 0, newest)
        self._try(define_metrics)
        self._beside("the plan and the data card", lambda open_run: log_documents(open_run, recipe, run))

    def _look_at(self, files: Sequence[Path]) -> None:
        try:
            for file in files:
                mend(file)
            self._last = newest_row(files)
            self._behind = bool(files)  # as far as is known
        except OSError as error:
            warn(f"W&B's files can't be read ({error}); it may be shown steps twice")

    def open_after(self, batch: int) -> None:
        """Shows the rows of metrics.jsonl, which end at step `batch`, that W&B's files lack. Where there are no files,
        they may have been sent and cleared away: nothing is shown again."""
        if self._behind:
            for row in rows_from(self.metrics, self._first):
                self.write(row)
        self._behind = False

    def write(self, row: Mapping[str, Any]) -> None:
        if row["batch"] >= self._first and (new := news(row, self._last)):
            self._held.append((row["batch"], {"tokens": row["tokens"], **new}))
        if time.monotonic() - self._handed_over > HOLD:
            self._hand_over()

    def write_picture(self, name: str, picture: Image, caption: str, row: Mapping[str, Any]) -> None:
        if row["batch"] > self._last.get(name, self._first - 1):
            self._last[name] = row["batch"]
            shown = {name: wandb.Image(picture, caption=caption), "tokens": row["tokens"]}
            self._held.append((row["batch"], shown))

    def alert(self, title: str, text: str) -> None:
        self._try(lambda run: run.alert(title, text, level="WARN"))

    def saved(self, address: str, step: int) -> None:
        """A version of the artifact RUN-checkpoint that leads to the checkpoint, where it lies."""

        def link(run: wandb.Run) -> None:
            artifact = wandb.Artifact(artifact_name(run, "checkpoint"), "checkpoint", metadata={"step": step})
            artifact.add_reference(address, name=f"step-{step}", checksum=False)
            run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

        self._beside(f"the link to step {step:,}", link)

    def close(self) -> None:
        deadline = time.monotonic() + LAST_LINKS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

        def finish(run: wandb.Run) -> None:
            error = sys.exc_info()[1]
            if isinstance(error, Stopped):
                run.mark_preempting()  # shown as preempted, not as failed
            run.finish(exit_code=0 if error is None else 1)

        self._hand_over()
        self._try(finish)
        self._run = None

    def _hand_over(self) -> None:
        """Several rows at once where steps are short: the client's code for one takes four times as long where the
        processor has long been at something else."""

        def log(run: wandb.Run) -> None:
            for step, values in self._held:
                run.log(values, step=step)

        self._try(log)
        self._held.clear()
        self._handed_over = time.monotonic()

    def _beside(self, what: str, action: Callable[[wandb.Run], object]) -> None:
        """In a thread: for an artifact W&B's client first asks the server, and waits for its answer."""
        if (run := self._run) is None:
            return

        def act() -> None:
            try:
                action(run)
            except Exception as error:
                if self._run:
                    warn(f"W&B has not taken {what} ({error})")

        thread = threading.Thread(target=act, name=f"W&B: {what}", daemon=True)
        thread.start()
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]

    def _try(self, action: Callable[[wandb.Run], object]) -> None:
        """W&B looks on: whatever goes wrong there, training and metrics.jsonl go on without it."""
        if self._run is None:
            return
        try:
            action(self._run)
        except TimeoutError:
            warn(f"W&B does not answer: `wandb sync {self._run.dir}/..` sends the rest later")
            self._run = None
        except Exception as error:
            self._run = None
            warn(f"W&B is gone ({error}); metrics.jsonl goes on")


def begin(recipe: Recipe, run: RunDirectory, config: Mapping[str, Any]) -> wandb.Run | None:
    """The run in W&B, begun or gone on with; written to files alone where W&B does not answer.

    Raises:
        RecipeError: the recipe asks for W&B, which has no key.
    """
    wish = recipe.wandb

    def open_run(mode: Mode) -> wandb.Run:
        return wandb.init(
            project=wish.project,
            entity=wish.entity,
            group=wish.group,
            job_type=wish.job_type,
            tags=wish.tags,
            notes=wish.notes,
            name=recipe.run_name,
            id=run.wandb_id(),
            resume="allow",
            mode=mode,
            dir=str(run.path),
            config=dict(config),
            settings=wandb.Settings(
                x_disable_stats=mode == "disabled",
                x_transaction_log_flush_interval=FLUSH,
                console="off",
                init_timeout=ANSWER,
                login_timeout=ANSWER,
                finish_timeout=GOODBYE,
                finish_timeout_raises=True,
            ),
        )

    try:
        opened = open_run(mode_of(recipe))
    except wandb.errors.UsageError as error:
        raise RecipeError(f"wandb.mode: {str(error).splitlines()[0]}") from None
    except wandb.errors.CommError as error:  # or it does not know the key
        why = shorten(str(error), 120)
        warn(
            f"W&B can't be reached ({why}): this start is written to {run.path}/wandb, and `wandb sync` sends it later"
        )
        wandb.teardown()  # its process still holds the id
        opened = open_run("offline")
    return None if opened.disabled else opened


def mode_of(recipe: Recipe) -> Mode:
    """Of `auto`: what WANDB_MODE says, or else online where W&B has a key (WANDB_API_KEY, `wandb login`) and offline
    where it has none."""
    if recipe.wandb.mode != "auto":
        return recipe.wandb.mode
    if "WANDB_MODE" in os.environ:
        return cast(Mode, os.environ["WANDB_MODE"])
    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except wandb.errors.AuthenticationError:
        return "online"  # where it is said what is wrong with the key


def first_step_of(run: RunDirectory, files: int) -> int:
    """The first step of the starts that W&B's files are of, the newest ones before this one: where none of them holds
    a row, those of earlier starts may have been sent and cleared away."""
    before = [row["step"] for row in iterate_rows(run.events) if row["event"] == START][:-1]
    return before[-files:][0] + 1 if files and before else 0


def define_metrics(run: wandb.Run) -> None:
    """Tokens are the x axis of everything; a summary is what a group's numbers come to."""
    for name in BARE:
        run.define_metric(name, step_metric="tokens")
    for group, summary in SUMMARIES.items():
        run.define_metric(f"{group}/*", step_metric="tokens", summary=summary)


def log_documents(run: wandb.Run, recipe: Recipe, folder: RunDirectory) -> None:
    """The plan and the dataset's card as artifacts, of which W&B keeps a new version only where they have changed."""
    dataset = Path(recipe.dataset.path)
    for kind, files in (("plan", [folder.plan]), ("data-card", [dataset / card for card in CARDS])):
        if found := [file for file in files if file.exists()]:
            artifact = wandb.Artifact(artifact_name(run, kind), kind)
            for file in found:
                artifact.add_file(str(file))
            run.log_artifact(artifact)


def artifact_name(run: wandb.Run, kind: str) -> str:
    return re.sub(r"[^\w.-]", "-", f"{run.name}-{kind}")[-128:]
