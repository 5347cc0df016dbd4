"""A run's copy at `checkpoints.remote`: its checkpoints, and the small files that a run goes on with elsewhere.

A copy of a checkpoint is whole once its checksums are there, which come last, and go first when it is removed.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from data.errors import DataError, is_outage
from data.patience import Say, patient
from data.stores import Store, open_store
from data.words import byte_count
from train.checkpoints.checksums import FILE as CHECKSUMS
from train.checkpoints.checksums import damages, read_checksums
from train.checkpoints.names import PARTIAL, PREFIX, is_name, name_of, newest_checkpoint, set_aside, steps_in, steps_of
from train.checkpoints.retention import MARK, Retention
from train.errors import RecipeError, RunFailed
from train.recipe import Recipe
from train.run_directory import RunDirectory

CHECKPOINTS = "checkpoints"
RUN_FILES = ("recipe.yaml", "manifest.json", "plan.json", "wandb_id", "mlflow_id", "metrics.jsonl", "events.jsonl")
FETCHED_AT_ONCE = 8  # files


class RemoteRun:
    """A run in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @classmethod
    def of(cls, recipe: Recipe) -> RemoteRun | None:
        """That of a recipe; None if it names no remote.

        Raises:
            RecipeError: nothing here can speak to such an address.
        """
        remote = recipe.checkpoints.remote
        if remote is None:
            return None
        try:
            return cls(open_store(f"{remote.rstrip('/')}/{recipe.run_name}"))
        except DataError as error:
            raise RecipeError(f"checkpoints.remote: {error}") from None

    def steps(self) -> list[int]:
        """Of the checkpoints whose copies are whole, in order."""
        return sorted(step for step, files in self._files().items() if CHECKSUMS in files)

    def _files(self) -> dict[int, set[str]]:
        """By step, what there is of a checkpoint, whole or not."""
        found: dict[int, set[str]] = {}
        for key in self.store.find(f"{CHECKPOINTS}/{PREFIX}"):
            _, name, *file = key.split("/")
            if is_name(name):
                found.setdefault(steps_in(name), set()).add("/".join(file))
        return found

    def put_files(self, checkpoint: Path, names: Iterable[str]) -> None:
        """Copies these files of a checkpoint."""
        for name in names:
            self.store.put(checkpoint / name, f"{CHECKPOINTS}/{checkpoint.name}/{name}")

    def complete(self, checkpoint: Path, run: Path, retention: Retention) -> None:
        """Makes a copy whole whose other files are there, copies the run's own files as well, and removes the copies
        that this one supersedes. One that is not whole was given up: no other save is in hand meanwhile."""
        for name in RUN_FILES:
            if (run / name).exists():
                self.store.put(run / name, name)
        self.put_files(checkpoint, [CHECKSUMS])
        found = self._files()
        whole = [step for step, files in found.items() if CHECKSUMS in files]
        given_up = [step for step in found if step not in whole and step < steps_of(checkpoint)]
        marked = [step for step in whole if MARK in found[step]]
        self._remove([*given_up, *retention.superseded(whole, marked)])

    def forget_after(self, step: int) -> None:
        """Removes copies of later steps, whole or not.

        Raises:
            RecipeError: they can't be removed.
        """
        with _in_a_sentence(f"can't remove the checkpoints after step {step:,} at {self.store.url}"):
            self._remove(later for later in self._files() if later > step)

    def _remove(self, steps: Iterable[int]) -> None:
        for step in steps:
            below = f"{CHECKPOINTS}/{name_of(step)}/"
            keys = self.store.find(below)
            first = [key for key in keys if key == f"{below}{CHECKSUMS}"]
            self.store.remove(first)
            self.store.remove([key for key in keys if key not in first])

    def fetch_newest(self, run: RunDirectory, say: Say) -> None:
        """Brings the newest checkpoint that is newer than those in the run's folder, with the run's own files; it comes
        last, and so does not count before they are there."""
        here = newest_checkpoint(run.checkpoints)
        for step in reversed(self.steps()):
            if here is not None and step <= steps_of(here):
                return
            if fetched := self._fetch(step, run.checkpoints, say):
                for key in set(self.store.find()) & {*RUN_FILES}:
                    partial = run.path / f"{PARTIAL}{key}"
                    self.store.get(key, partial)
                    partial.replace(run.path / key)
                checkpoint = run.checkpoints / name_of(step)
                if checkpoint.exists():
                    set_aside(checkpoint)  # it is damaged, or it would be the newest here
                fetched.replace(checkpoint)
                return

    def _fetch(self, step: int, folder: Path, say: Say) -> Path | None:
        """A checkpoint in `folder`, under a temporary name; None, with a warning, if the copy is damaged."""
        name = name_of(step)
        partial, below = folder / f"{PARTIAL}fetched-{name}", f"{CHECKPOINTS}/{name}/"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        self.store.get(f"{below}{CHECKSUMS}", partial / CHECKSUMS)
        try:
            sums = read_checksums(partial)
            total = byte_count(sum(known.bytes for known in sums.values()))
            say(f"fetching {name} from {self.store.url} ({total})")
            progress = patient(say)

            def get(file: str) -> None:
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                self.store.get(below + file, partial / file)
                progress(f"fetched {file} of {name}")

            with ThreadPoolExecutor(FETCHED_AT_ONCE) as threads:
                list(threads.map(get, sums))
            found = damages(partial, sums, sums)
        except ValueError as error:
            found = [str(error)]
        if found:
            say(f"warning: the copy of {name} at {self.store.url} is damaged: {found[0]}")
            shutil.rmtree(partial)
            return None
        return partial


def fetch_run(recipe: Recipe, run: RunDirectory, say: Callable[[str], None]) -> None:
    """Brings what the run's copy has beyond the run's folder; nothing without `checkpoints.remote`. Any number of
    processes may call it at once: one fetches.

    Raises:
        RecipeError: the copy can't be read, or the folder can't be written to.
        RunFailed: the copy can't be reached just now.
    """
    remote = RemoteRun.of(recipe)
    if remote is None:
        return
    with _in_a_sentence(f"can't fetch the run from {remote.store.url}"):
        run.path.mkdir(parents=True, exist_ok=True)
        with (run.path / ".fetching").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            remote.fetch_newest(run, say)


def send_newest(recipe: Recipe, run: RunDirectory, say: Say) -> None:
    """Copies the newest checkpoint of a finished run, which could not be copied when it ended; nothing if it was.

    Raises:
        RecipeError: it can't be read or copied, or another process is training the run.
    """
    remote, newest = RemoteRun.of(recipe), newest_checkpoint(run.checkpoints)
    if remote is None or newest is None:
        return
    with run.lock(), _in_a_sentence(f"can't copy {newest} to {remote.store.url}"):
        if steps_of(newest) in remote.steps():
            return
        sums = read_checksums(newest)
        total = byte_count(sum(known.bytes for known in sums.values()))
        say(f"copying {newest.name} to {remote.store.url}, where it is not yet ({total})")
        if found := damages(newest, sums, sums):  # and the copies that it would replace may be good
            raise ValueError(found[0])
        progress = patient(say)
        for name in sums:
            remote.put_files(newest, [name])
            progress(f"copied {name} of {newest.name}")
        remote.complete(newest, run.path, recipe.retention)


@contextmanager
def _in_a_sentence(what: str) -> Iterator[None]:
    """Each kind of store has errors of its own."""
    try:
        yield
    except Exception as error:
        reason = f"{what}: {(str(error) or type(error).__name__).splitlines()[0]}"
        raise RunFailed(f"{reason}; run the same command again") if is_outage(error) else RecipeError(reason) from None
