"""Hold a run's records against its plan: nothing lost, nothing repeated, nothing out of place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.mixture.order import epochs_of
from data.mixture.plan import Plan
from train.audit.findings import Discrepancy, Findings, Total, Verdict
from train.audit.records import RECORD, PartFile, Start, UnreadableError, read_part, read_records
from train.audit.run import RunPlan
from train.audit.shards import TrainingShards
from train.audit.starts import RecordedStart

CHUNK = 1 << 17  # samples that are compared at once
Records = NDArray[np.void]  # of RECORD
Progress = Callable[[int], None]  # told how many more samples have been compared


def audit(run: RunPlan, starts: Sequence[RecordedStart], shards: TrainingShards | None, progress: Progress) -> Verdict:
    """Compare the records that count with the plan and, if there are `shards`, with the dataset's own tokens."""
    auditor = Auditor(run, shards, progress)
    position = auditor.beginning(starts[0])
    for start in starts:
        if start.last > start.step:
            position = auditor.start(start, position)
    auditor.end(position)
    beyond = [start.records_beyond() for start in starts]
    orders = zip(run.plan.orders, auditor.samples.tolist(), strict=True)
    return Verdict(
        starts=list(starts),
        domains={order.domain: Total(samples, epochs_of(order, samples)) for order, samples in orders},
        superseded=sum(beyond[:-1]),
        unfinished=beyond[-1],
        tokens=shards is not None,
        findings=auditor.findings,
    )


class Auditor:
    """Goes through the starts in order; a position is the sample at which the next has to begin, None if unknown."""

    def __init__(self, run: RunPlan, shards: TrainingShards | None, progress: Progress) -> None:
        self.run = run
        self.shards = shards
        self.progress = progress
        self.findings = Findings()
        self.samples = np.zeros(len(run.plan.domains), np.int64)  # of each domain, that are right

    def beginning(self, first: RecordedStart) -> int | None:
        """The records must reach back to the run's first step."""
        if first.step == 0:
            return 0
        steps = f"records of steps 1 to {first.step:,}"
        missing = Discrepancy("the beginning", steps, "none (was it trained with audit: false?)")
        self.findings.add("no file", [missing])
        return None

    def start(self, start: RecordedStart, position: int | None) -> int | None:
        """Compare a start's counted steps."""
        about = start.start
        if about is None:
            steps = f"records of steps {start.step + 1:,} to {start.last:,}"
            self.findings.add("no file", [Discrepancy(f"start {start.number}", steps, "none that can be read")])
            return None
        position = about.sample if position is None else position
        check_start(start, about, position, self.run.fingerprint_at(position), self.findings)
        records = PartRecords(self.run.plan, about, self.findings)
        for first, last in chunks(start, about.batch):
            first_sample = position + (first - start.step - 1) * about.batch
            expected = expected_records(self.run.plan, first_sample, first, last, about.batch)
            self.chunk(expected, records.between(start.parts, first, last))
        return position + (start.last - start.step) * about.batch

    def chunk(self, expected: Records, found: Records) -> None:
        placed = compare(self.run.plan, expected, found, self.findings)
        self.samples += np.bincount(placed["domain"], minlength=len(self.samples))
        if self.shards:
            compare_tokens(self.run.plan, placed, self.shards, self.findings)
        self.progress(len(expected))

    def end(self, position: int | None) -> None:
        """The records must come to as many samples as the newest checkpoint."""
        if position not in (None, self.run.samples):
            counted = Discrepancy("the end", f"{self.run.samples:,} samples, as in the checkpoint", f"{position:,}")
            self.findings.add("other count", [counted])


def chunks(start: RecordedStart, batch: int) -> Iterator[tuple[int, int]]:
    """(first step, last step) of stretches of about CHUNK samples that cover the counted steps."""
    size = max(1, CHUNK // batch)
    for first in range(start.step + 1, start.last + 1, size):
        yield first, min(first + size - 1, start.last)


# What the starts and their files say of themselves.


def check_start(start: RecordedStart, about: Start, position: int, fingerprint: str, findings: Findings) -> None:
    where = f"start {start.number}"
    if about.plan != fingerprint:
        findings.add("other plan", [Discrepancy(where, f"plan {fingerprint[:12]}", f"plan {about.plan[:12]}")])
    if about.sample != position:
        found = f"a start at sample {about.sample:,}"
        findings.add("out of place", [Discrepancy(where, f"a start at sample {position:,}", found)])
    for rank, first, last in start.gaps():
        steps = f"records of steps {first:,} to {last:,}"
        missing = Discrepancy(f"{where}, rank {rank} of {about.ranks}", steps, "no file of them")
        findings.add("no file", [missing])


class PartRecords:
    """The records of a start's files, each file in memory for as long as its steps are looked at."""

    def __init__(self, plan: Plan, start: Start, findings: Findings) -> None:
        self.domains = {name: number for number, name in enumerate(plan.domains)}
        self.start = start
        self.findings = findings
        self._read: dict[Path, Records] = {}

    def between(self, parts: Sequence[PartFile], first: int, last: int) -> Records:
        """The records of steps `first` to `last`, of all ranks."""
        needed = [part for part in parts if part.first <= last and part.last >= first]
        self._read = {part.path: self._of(part) for part in needed}
        held = [records[(first <= records["step"]) & (records["step"] <= last)] for records in self._read.values()]
        return np.concatenate([np.empty(0, RECORD), *held])

    def _of(self, part: PartFile) -> Records:
        if part.path in self._read:
            return self._read[part.path]
        try:
            about, records = read_part(part.path), read_records(part.path, self.domains)
        except UnreadableError as error:
            self.findings.add("bad file", [Discrepancy(part.short_name, "a file of records", str(error))])
            return np.empty(0, RECORD)
        if about.start != self.start:
            found = f"one of {about.start}"
            self.findings.add("bad file", [Discrepancy(part.short_name, f"a file of {self.start}", found)])
        strays = records[(records["step"] < part.first) | (records["step"] > part.last)]
        steps = f"steps {part.first:,} to {part.last:,}"
        named = (at(stray, steps, f"step {stray['step']:,}") for stray in strays)
        self.findings.add("out of place", named, len(strays))
        return records


# What the records say.


def expected_records(plan: Plan, first_sample: int, first: int, last: int, batch: int) -> Records:
    """What steps `first` to `last` were to be given; `tokens` is left 0."""
    places = plan[first_sample : first_sample + (last - first + 1) * batch]
    expected = np.zeros(len(places), RECORD)
    for name in places.dtype.names or ():
        expected[name] = places[name]
    expected["step"] = first + np.arange(len(places)) // batch
    return expected


def compare(plan: Plan, expected: Records, found: Records, findings: Findings) -> Records:
    """Add what differs to the findings. Returns the records that are right, their tokens aside."""
    found = found[np.argsort(found["sample"], kind="stable")]
    index = found["sample"] - expected["sample"][0]
    inside = (index >= 0) & (index < len(expected))
    again = np.concatenate([[False], found["sample"][1:] == found["sample"][:-1]])[: len(found)]
    seen = np.zeros(len(expected), bool)
    seen[index[inside]] = True

    samples = f"one of samples {expected['sample'][0]:,} to {expected['sample'][-1]:,}"
    findings.add("lost", (at(one, place(plan, one), "no record") for one in expected[~seen]), int((~seen).sum()))
    findings.add("out of place", (at(one, samples, place(plan, one)) for one in found[~inside]), int((~inside).sum()))
    repeated = found[inside & again]
    findings.add("repeated", (at(one, "one record", "another one") for one in repeated), len(repeated))

    found, asked = found[inside & ~again], expected[index[inside & ~again]]
    right = np.logical_and.reduce([found[name] == asked[name] for name in ("step", "domain", "epoch", "row")])
    pairs = zip(asked[~right], found[~right], strict=True)
    misplaced = (at(one, in_step(plan, one), in_step(plan, other)) for one, other in pairs)
    findings.add("out of place", misplaced, int((~right).sum()))
    return found[right]


def compare_tokens(plan: Plan, placed: Records, shards: TrainingShards, findings: Findings) -> None:
    """Hold the hashes of the tokens against the dataset's own."""
    for number in np.unique(placed["domain"]):
        records = placed[placed["domain"] == number]
        hashes = shards.hashes(plan.domains[number], records["row"])
        wrong = records["tokens"] != hashes
        pairs = zip(records[wrong], hashes[wrong], strict=True)
        named = (at(one, f"{own:016x}, {place(plan, one)}", f"{one['tokens']:016x}") for one, own in pairs)
        findings.add("other tokens", named, int(wrong.sum()))


def at(record: np.void, expected: str, found: str) -> Discrepancy:
    step, sample = int(record["step"]), int(record["sample"])
    return Discrepancy(f"step {step:,}, sample {sample:,}", expected, found, step, sample)


def place(plan: Plan, record: np.void) -> str:
    """A record's place in its domain, in words."""
    domain = plan.domains[record["domain"]] if record["domain"] >= 0 else "an unknown domain"
    return f"{domain}, epoch {record['epoch']:,}, row {record['row']:,}"


def in_step(plan: Plan, record: np.void) -> str:
    return f"{place(plan, record)} in step {record['step']:,}"
