"""`brickyard audit`: was the model given what the plan says?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from data.words import join_words, plural
from train.audit.findings import Verdict
from train.audit.run import RunPlan, read_run_plan, read_run_starts
from train.audit.shards import TrainingShards
from train.audit.starts import RecordedStart
from train.audit.verify import audit
from train.callbacks.metrics_file import iterate_rows
from train.run_directory import RunDirectory


def audit_command(run_dir: Path, *, dataset: Path | None, tokens: bool, as_json: bool) -> int:
    """Print what the records of a run come to. Returns 0 if all of them are as planned, else 1."""
    run = RunDirectory(run_dir)
    planned, starts = read_run_plan(run), read_run_starts(run)
    shards = open_shards(planned, dataset) if tokens else None
    with progress_bar() as progress:
        task = progress.add_task("samples", total=samples_of(starts))
        verdict = audit(planned, starts, shards, lambda samples: progress.advance(task, samples))
    if as_json:
        print(json.dumps(verdict.as_json(), indent=2))
    else:
        show(run, verdict)
    return 0 if verdict.holds else 1


def open_shards(planned: RunPlan, moved_to: Path | None) -> TrainingShards:
    if moved_to is not None:
        return TrainingShards(moved_to, None, planned.manifest)
    dataset = planned.recipe.dataset
    return TrainingShards(Path(dataset.path), dataset.remote, planned.manifest)


def samples_of(starts: list[RecordedStart]) -> int:
    return sum((start.last - start.step) * start.start.batch for start in starts if start.start)


def progress_bar() -> Progress:
    """On a terminal, gone when it is done."""
    console = Console(stderr=True)
    columns = TextColumn("audit:"), BarColumn(), MofNCompleteColumn(), TextColumn("samples,"), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def show(run: RunDirectory, verdict: Verdict) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{run.path}: {'as planned' if verdict.holds else 'not as planned'}", style="bold")
    for line in [*counts(verdict), *not_learned(run), *named(verdict)]:
        console.print(f"  {line}")
    console.print()
    console.print(domains_table(verdict))


def counts(verdict: Verdict) -> Iterator[str]:
    """What was looked at."""
    ranks = join_words([f"{ranks:,}" for ranks in verdict.ranks])
    began = f"{plural(len(verdict.starts), 'start')} on {ranks} {'rank' if ranks == '1' else 'ranks'}"
    right = f"{plural(verdict.samples, 'sample')}{'' if verdict.holds else ' as planned'}"
    seen = f"{plural(verdict.steps, 'step')}, {right}, {began}"
    yield f"{seen}: nothing lost, nothing repeated, nothing out of place" if verdict.holds else seen
    if not verdict.tokens:
        yield "the tokens were not compared with the dataset's"
    elif verdict.holds:
        yield "the tokens are the dataset's own"
    if verdict.superseded:
        yield f"{plural(verdict.superseded, 'record')} of steps that a later start trained again do not count"
    if verdict.unfinished:
        yield f"{plural(verdict.unfinished, 'record')} of steps after the newest checkpoint do not count yet"


def not_learned(run: RunDirectory) -> Iterator[str]:
    """Steps that were given to the model as planned, but without an update."""
    if skipped := sum(row.get("skipped", False) for row in iterate_rows(run.metrics)):
        yield f"{plural(skipped, 'step')} of them without an update, because of a spike: see {run.events}"


def named(verdict: Verdict) -> Iterator[str]:
    """The discrepancies, as far as they are named, and how many there are."""
    found = verdict.findings
    for kind, one in found.first:
        yield f"{one.where}: {kind}: expected {one.expected}, found {one.found}"
    if found.counts:
        yield "in all: " + join_words([f"{count:,} {kind}" for kind, count in found.counts.items()])


def domains_table(verdict: Verdict) -> Table:
    table = Table("domain", Column("samples", justify="right"), Column("epochs", justify="right"), box=None)
    for name, total in verdict.domains.items():
        table.add_row(name, f"{total.samples:,}", f"{total.epochs:.3f}")
    return table
