"""From a recipe's curriculum and a dataset's manifest to the schedule and the plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from data.manifest import Manifest
from data.mixture.plan import Plan
from data.mixture.schedule import WEIGHT_UNIT, Schedule
from data.words import join_words, plural
from train.curriculum.limits import NothingLeft, reallocate, used_up
from train.curriculum.spans import read_spans, whole_samples
from train.errors import CurriculumError
from train.places import Steps, moment
from train.recipe import Recipe


@dataclass(frozen=True)
class Exhaustion:
    """A domain that has had its `max_epochs` and is not drawn from sample `sample` on."""

    domain: str
    sample: int
    max_epochs: float


@dataclass(frozen=True)
class ResolvedCurriculum:
    """A curriculum worked out for a dataset."""

    schedule: Schedule
    exhaustions: list[Exhaustion]  # before the run's end, in order


def build_plan(recipe: Recipe, manifest: Manifest) -> Plan:
    """Which sample of the dataset comes at every place of the run.

    Raises:
        CurriculumError: as `resolve_curriculum`.
    """
    schedule = build_schedule(recipe, manifest)
    return Plan(schedule, shard_rows(manifest, schedule.domains), recipe.curriculum.seed)


def shard_rows(manifest: Manifest, domains: Iterable[str]) -> dict[str, list[int]]:
    """For each of these domains, the training samples of its shards in order."""
    splits = {domain: manifest.domains[domain].splits["train"] for domain in domains}
    return {domain: [shard.samples for shard in split.shards] for domain, split in splits.items()}


def build_schedule(recipe: Recipe, manifest: Manifest) -> Schedule:
    """The recipe's anchors in samples and whole weight units."""
    return resolve_curriculum(recipe, manifest).schedule


def exhaustions(recipe: Recipe, manifest: Manifest) -> list[Exhaustion]:
    """The domains that are used up before the run's end, in order; the others take their places."""
    return resolve_curriculum(recipe, manifest).exhaustions


def resolve_curriculum(recipe: Recipe, manifest: Manifest) -> ResolvedCurriculum:
    """The weights of the dataset's domains at every sample, with nothing left open.

    Raises:
        CurriculumError: the curriculum asks for more of a domain than fits into a span or than it may have.
    """
    spans = read_spans(recipe, manifest)
    domains = tuple(dict.fromkeys(domain for span in spans for domain in span.domains))
    schedule = Schedule(domains, tuple(span.anchor(domains) for span in spans))
    most = recipe.curriculum.most_epochs(domains)
    limits = {domains.index(domain): whole_samples(manifest, domain, epochs) for domain, epochs in most.items()}
    end = recipe.end
    if recipe.curriculum.when_used_up == "error":
        if over := used_up(schedule, limits, end):
            sample, number = over[0]
            raise used_up_error(recipe, manifest, domains[number], sample, schedule.target(end)[number])
        return ResolvedCurriculum(schedule, [])

    def fixed_at(sample: int) -> frozenset[int]:
        here = [span for span in spans if span.start <= sample][-1]
        return frozenset(domains.index(domain) for domain in here.fixed)

    try:
        schedule, ends = reallocate(schedule, limits, fixed_at, end)
    except NothingLeft as nothing:
        raise nothing_left_error(recipe, [domains[number] for number in nothing.gone], nothing.sample) from None
    found = [(sample, domains[number]) for number, sample in ends.items()]
    return ResolvedCurriculum(schedule, [Exhaustion(domain, sample, most[domain]) for sample, domain in sorted(found)])


def used_up_error(recipe: Recipe, manifest: Manifest, domain: str, sample: int, asked: int) -> CurriculumError:
    """The domain has its limit at `sample`, and `asked` (in samples / WEIGHT_UNIT) is more than that."""
    most = recipe.curriculum.most_epochs([domain])[domain]
    more = math.ceil(Fraction(asked, WEIGHT_UNIT)) - whole_samples(manifest, domain, most)
    epochs, when = asked / WEIGHT_UNIT / whole_samples(manifest, domain, 1), moment(recipe, Steps.of(recipe), sample)
    return CurriculumError(
        limit_key(recipe, domain),
        f"{domain} is used up {when}: the curriculum asks for {epochs:.4g} epochs of it, where "
        f"{most:g} are allowed ({plural(more, 'sample')} too many); ask for less of it, allow more, or set "
        "curriculum.when_used_up=reallocate",
    )


def nothing_left_error(recipe: Recipe, gone: Sequence[str], sample: int) -> CurriculumError:
    are, when = "are" if len(gone) > 1 else "is", moment(recipe, Steps.of(recipe), sample)
    return CurriculumError(
        "curriculum.max_epochs",
        f"{join_words(sorted(gone))} {are} used up, and {when} no other domain has a weight that "
        "could grow in its place; ask for less of it, allow more, or give another domain a weight",
    )


def limit_key(recipe: Recipe, domain: str) -> str:
    key = "curriculum.max_epochs"
    return f"{key}.{domain}" if isinstance(recipe.curriculum.max_epochs, dict) else key
