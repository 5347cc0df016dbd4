"""What each anchor of a recipe asks for up to the next one, in samples and exact shares of the dataset's domains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from data.manifest import Manifest
from data.mixture.schedule import WEIGHT_UNIT, ScheduleAnchor, quantise
from data.words import join_words
from train.curriculum.config import AnchorConfig
from train.curriculum.shares import exact, open_groups, tempered
from train.errors import CurriculumError
from train.recipe import Recipe


@dataclass(frozen=True)
class Span:
    """From one anchor to the next, or to the run's end.

    Attributes:
        start: the anchor's sample.
        ramp: that leads to the anchor.
        fixed: the weights of the domains that are given in epochs, each a whole number of 1 / WEIGHT_UNIT.
        shares: of what is left, for the other domains; they sum to 1.
    """

    start: int
    ramp: str
    fixed: Mapping[str, Fraction]
    shares: Mapping[str, Fraction]

    @property
    def domains(self) -> list[str]:
        return [*self.shares, *self.fixed]

    def anchor(self, domains: Sequence[str]) -> ScheduleAnchor:
        left = 1 - sum(self.fixed.values())
        weights = {domain: share * left for domain, share in self.shares.items()}
        return ScheduleAnchor(self.start, quantise({**weights, **self.fixed}, domains), self.ramp)


def read_spans(recipe: Recipe, manifest: Manifest) -> list[Span]:
    """One span for each anchor.

    Raises:
        CurriculumError: the epochs that an anchor asks for do not fit, or its temperature has no domain.
    """
    anchors = recipe.curriculum.anchors
    places = [recipe.samples(anchor.at) for anchor in anchors]
    spans = []
    for index, anchor in enumerate(anchors):
        key = f"curriculum.anchors[{index}]"
        last = index + 1 == len(anchors)
        begins = places[index if anchor.ramp == "step" else index - 1]  # a ramp counts before it is done
        if not anchor.epochs or (last and begins >= recipe.end):
            # A short run of a long recipe does not know how long the last span was to be, and never comes there.
            fixed = dict.fromkeys(anchor.epochs, Fraction(0))
        else:
            stop = recipe.end if last else places[index + 1]
            fixed = epoch_weights(f"{key}.epochs", anchor.epochs, stop - places[index], manifest)
        spans.append(Span(places[index], anchor.ramp, fixed, read_shares(key, anchor, recipe, manifest)))
    return spans


def epoch_weights(key: str, epochs: Mapping[str, float], length: int, manifest: Manifest) -> dict[str, Fraction]:
    """The weights that give each domain the whole samples of its epochs in `length` samples.

    They are rounded down, so that a domain's epochs are never more than a `max_epochs` of the same number.
    """
    samples = {domain: whole_samples(manifest, domain, count) for domain, count in epochs.items()}
    if sum(samples.values()) > length:
        asked = join_words([f"{count:g} of {domain}" for domain, count in epochs.items()])
        there = f"and there are {max(0, length):,} up to the next anchor, or the run's end"
        raise CurriculumError(key, f"the epochs ({asked}) take {sum(samples.values()):,} samples, {there}")
    return {domain: Fraction(count * WEIGHT_UNIT // length, WEIGHT_UNIT) for domain, count in samples.items()}


def read_shares(key: str, anchor: AnchorConfig, recipe: Recipe, manifest: Manifest) -> dict[str, Fraction]:
    """The shares of the domains that have no epochs at this anchor, from its weights or its temperature."""
    if anchor.temperature is None:
        return open_groups(anchor.weights, recipe.curriculum.groups)
    named = anchor.domains or [domain for domain in manifest.domains if domain not in anchor.epochs]
    tokens = {domain: manifest.domains[domain].splits["train"].tokens for domain in named}
    tokens = {domain: count for domain, count in tokens.items() if count}
    if not tokens:
        raise CurriculumError(f"{key}.temperature", f"no other domain of {recipe.dataset.path} has training samples")
    return tempered(tokens, anchor.temperature)


def whole_samples(manifest: Manifest, domain: str, epochs: float) -> int:
    """Samples that are drawn in so many epochs of the domain."""
    return math.floor(exact(epochs) * manifest.domains[domain].splits["train"].samples)
