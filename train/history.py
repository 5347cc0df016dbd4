"""Which curricula a run has followed. Each checkpoint holds that: who goes on may change the future, not the past."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from data.manifest import Manifest
from data.mixture.history import continue_plan, first_difference
from data.mixture.plan import Plan
from data.mixture.schedule import Schedule, ScheduleAnchor
from data.mixture.timeline import Era
from data.words import join_words
from train.changes import differences
from train.checkpoints.names import newest_checkpoint, whole_checkpoints
from train.curriculum.build import build_schedule, shard_rows
from train.errors import RecipeError
from train.events import Rollback, read_rollback, rollbacks_of
from train.reader import to_yaml
from train.recipe import Recipe
from train.run_directory import RunDirectory

FILE = "curriculum.json"


@dataclass(frozen=True)
class Followed:
    """A curriculum, and from which sample on it was followed.

    Attributes:
        fingerprint: of the run's plan since then.
        changes: what the recipe said otherwise before, and which domains have grown; empty for a run's first
            curriculum.
        shards: by domain, how many training shards the dataset had.
    """

    start: int
    fingerprint: str
    changes: tuple[str, ...]
    schedule: Schedule
    shards: Mapping[str, int]


@dataclass(frozen=True)
class History:
    """The curricula of a run in order, each time that it went back, and the samples that it had come to.

    Where the dataset has grown, another curriculum begins, though it may ask for the same.
    """

    samples: int
    followed: tuple[Followed, ...]
    rollbacks: tuple[Rollback, ...] = ()

    @property
    def eras(self) -> list[Era]:
        return [Era(followed.start, followed.schedule, followed.shards) for followed in self.followed]

    def write(self, checkpoint: Path, samples: int) -> None:
        """Put it into a checkpoint's folder."""
        content = asdict(replace(self, samples=samples))
        (checkpoint / FILE).write_text(json.dumps(content, indent=1) + "\n")


def read_history(run: RunDirectory) -> History | None:
    """The history in a run's newest checkpoint; None before there is one.

    Raises:
        RecipeError: the checkpoint holds none, or a damaged one.
    """
    checkpoint = newest_checkpoint(run.checkpoints)
    if checkpoint is None:
        return None
    history = read_history_in(checkpoint)
    return replace(history, rollbacks=max(history.rollbacks, rollbacks_of(run), key=len))


def read_history_in(checkpoint: Path) -> History:
    """The history in one of a run's checkpoints.

    Raises:
        RecipeError: it holds none, or a damaged one.
    """
    path = checkpoint / FILE
    try:
        content = json.loads(path.read_text())
        rollbacks = tuple(read_rollback(entry) for entry in content.get("rollbacks", []))
        return History(content["samples"], tuple(read_followed(entry) for entry in content["followed"]), rollbacks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{path}: the history of the run's curriculum can't be read ({error}); delete this checkpoint to go on "
            "from the one before, or choose another run_name"
        ) from None


def checkpoint_before(run: RunDirectory, history: History, sample: int) -> Path | None:
    """The checkpoint to go back to so that `sample` comes again: the newest before it, or else the oldest; never one
    before the last change of the curriculum. None: there is none."""
    samples = {checkpoint: read_history_in(checkpoint).samples for checkpoint in whole_checkpoints(run.checkpoints)}
    found = [checkpoint for checkpoint in samples if samples[checkpoint] >= history.followed[-1].start]
    return next(
        (checkpoint for checkpoint in reversed(found) if samples[checkpoint] <= sample), next(iter(found), None)
    )


def read_followed(content: dict[str, Any]) -> Followed:
    schedule = content["schedule"]
    anchors = tuple(ScheduleAnchor(a["at"], tuple(a["weights"]), a["ramp"]) for a in schedule["anchors"])
    return Followed(
        content["start"],
        content["fingerprint"],
        tuple(content["changes"]),
        Schedule(tuple(schedule["domains"]), anchors),
        content.get("shards", {}),
    )


def continue_run(run: RunDirectory, recipe: Recipe, manifest: Manifest) -> tuple[Plan, History]:
    """The plan of a new run, or of one that goes on under this recipe, with what it has followed.

    Raises:
        RecipeError: the recipe gives samples that were trained on other weights, or the dataset's order has changed.
    """
    schedule = build_schedule(recipe, manifest)
    history = read_history(run)
    seed = recipe.curriculum.seed
    if history is None:
        plan = Plan(schedule, shard_rows(manifest, schedule.domains), seed)
        return plan, History(0, (Followed(0, plan.fingerprint, (), schedule, shards_of(plan)),))
    check_order(run, recipe, manifest, history)
    check_past(run, recipe, manifest, schedule, history)
    domains = {*schedule.domains, *history.followed[-1].schedule.domains}
    plan = continue_plan(history.eras, history.samples, schedule, shard_rows(manifest, domains), seed)
    kept = [followed for followed in history.followed if followed.start < max(1, history.samples)]
    if plan.eras[-1].start == kept[-1].start:
        return plan, replace(history, followed=tuple(kept))
    changes = (*curriculum_changes(run, recipe), *growths(kept[-1].shards, shards_of(plan)))
    latest = Followed(history.samples, plan.fingerprint, changes, plan.schedule, shards_of(plan))
    return plan, replace(history, followed=(*kept, latest))


def plan_of_run(run: RunDirectory, recipe: Recipe, manifest: Manifest) -> Plan:
    """The plan that a run has followed so far, from its folder alone; `recipe` is the one that lies there."""
    history = read_history(run)
    if history is None:
        return continue_run(run, recipe, manifest)[0]
    schedule = history.followed[-1].schedule
    rows = rows_at(history.followed[-1], manifest)
    return continue_plan(history.eras, history.samples, schedule, rows, recipe.curriculum.seed)


def check_order(run: RunDirectory, recipe: Recipe, manifest: Manifest, history: History) -> None:
    """Refuse to go on where the past would come out in another order now."""
    followed = history.followed[-1]
    *past, latest = history.eras
    rows = rows_at(followed, manifest)
    plan = Plan(latest.schedule, rows, recipe.curriculum.seed, past, latest.start)
    if plan.fingerprint != followed.fingerprint:
        raise RecipeError(
            f"{run.path}: the order of the samples is not the one that the run began with (another version of "
            "Brickyard, or other shards); choose another run_name"
        )


def check_past(run: RunDirectory, recipe: Recipe, manifest: Manifest, schedule: Schedule, history: History) -> None:
    """Refuse other weights for samples that were trained on. Each curriculum of a run agrees with those before it about
    their past, so the newest one speaks for all."""
    position = history.samples
    sample = first_difference(history.followed[-1].schedule, schedule, position)
    if sample is not None:
        tokens, now = sample * recipe.max_seq_len, position * recipe.max_seq_len
        raise RecipeError(
            f"{run.path}: for token {tokens:,} the recipe asks for other weights than the run was trained on, and it "
            f"has come to token {now:,}; the past can't change: change anchors at {now}tok or later (a ramp that has "
            f"begun keeps its end){by_size(manifest, history)}, or choose another run_name"
        )


def shards_of(plan: Plan) -> dict[str, int]:
    """By domain, how many training shards the dataset has."""
    return {order.domain: len(order.shard_rows) for order in plan.orders}


def rows_at(followed: Followed, manifest: Manifest) -> dict[str, list[int]]:
    """The training samples of the shards that there were then."""
    rows = shard_rows(manifest, followed.schedule.domains)
    return {domain: of[: followed.shards.get(domain)] for domain, of in rows.items()}


def growths(before: Mapping[str, int], now: Mapping[str, int]) -> Iterator[str]:
    """Which domains have more shards than before."""
    for domain, shards in before.items():
        if now[domain] > shards:
            yield f"the dataset's {domain} had {shards:,} shards and now has {now[domain]:,}"


def by_size(manifest: Manifest, history: History) -> str:
    """What to say of a dataset that has grown, for it moves the weights that are not given as numbers."""
    before = history.followed[-1].shards
    now = {domain: len(rows) for domain, rows in shard_rows(manifest, before).items()}
    grown = [domain for domain in before if now[domain] > before[domain]]
    if not grown:
        return ""
    sizes = f"epochs, temperature and max_epochs follow the size of {join_words(grown)}, which has grown"
    return f", give the weights of the past as numbers ({sizes})"


def new_shards(history: History) -> list[str]:
    """Which domains have grown since the checkpoint that the run goes on from."""
    *_, before, latest = (None, *history.followed)
    return list(growths(before.shards, latest.shards)) if before and latest.start == history.samples else []


def curriculum_changes(run: RunDirectory, recipe: Recipe) -> Iterator[str]:
    """What this recipe's curriculum says otherwise than the one in the run's folder."""
    before, now = yaml.safe_load(run.recipe.read_text()), yaml.safe_load(to_yaml(recipe))
    for key in ("max_duration", "global_train_batch_size", "curriculum"):
        for path, was, is_now in differences(before[key], now[key], key):
            yield f"{path} was {was!r} and is now {is_now!r}"
