"""The `curriculum` part of a recipe: every key, its type, its default, what it may hold, and whom it may name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from data.manifest import Manifest
from data.mixture.schedule import RAMPS
from data.mixture.times import parse_time
from train.curriculum.shares import normalised, open_groups, way_back
from train.schema import Problem, join, nearest
from train.times import readable_time, time_problems

SMALLEST_TEMPERATURE = 0.1


@dataclass
class AnchorConfig:
    """One point of the curriculum."""

    at: str  # a time: 0tok, 8Ttok, 500ba, 0.5dur
    weights: dict[str, float] = field(default_factory=dict)  # share of each domain or group; the shares sum to 1
    ramp: Literal["step", "linear", "cosine"] = "step"  # how the weights get here from the anchor before
    temperature: float | None = None  # instead of weights: proportional to a domain's tokens ** (1 / temperature)
    domains: list[str] | None = None  # that the temperature is for; null: all of the dataset
    epochs: dict[str, float] = field(default_factory=dict)  # of a domain up to the next anchor; weights share the rest

    def problems(self) -> Iterator[Problem]:
        yield from time_problems("at", self.at)
        if bool(self.weights) == (self.temperature is not None):
            yield "weights", f"expected weights or a temperature, found {'both' if self.weights else 'neither'}"
        if self.temperature is not None and not self.temperature >= SMALLEST_TEMPERATURE:
            expected = f"expected {SMALLEST_TEMPERATURE} or more (1 is by size, .inf is even)"
            yield "temperature", f"{expected}, found {self.temperature}"
        if self.domains is not None and self.temperature is None:
            yield "domains", "names what a temperature is for, and there is no temperature; remove it"
        elif self.domains == []:
            yield "domains", "expected at least one domain, or null for all of the dataset"


@dataclass
class CurriculumConfig:
    """The schedule of domain weights over training; constant after the last anchor."""

    anchors: list[AnchorConfig]
    seed: int = 17  # of the order of the samples
    # For each group the shares of its domains, which sum to 1; an anchor's weights may name it, and groups may nest.
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    normalise_weights: bool = False  # divide weights that do not sum to 1 by their sum, with a warning; false: refuse
    # The most epochs of a domain in the whole run: {math: 4}, or one number for every domain.
    max_epochs: Any = field(default=None, metadata={"shape": float | dict[str, float] | None})
    when_used_up: Literal["error", "reallocate"] = "error"  # refuse the recipe, or give the weight to the others

    def problems(self) -> Iterator[Problem]:
        if not self.anchors:
            yield "anchors", "expected at least one anchor, at 0tok"
        elif readable_time(self.anchors[0].at) and parse_time(self.anchors[0].at).value != 0:
            yield "anchors[0].at", f"expected the first anchor at 0tok, found {self.anchors[0].at}"
        elif self.anchors[0].ramp != RAMPS[0]:
            yield "anchors[0].ramp", "expected no ramp: there is no anchor before the first"
        if not 0 <= self.seed < 2**63:
            yield "seed", f"expected a number from 0 to 2^63 - 1, found {self.seed}"
        for key, name in (*self.share_names(), *self.domain_names()):
            yield from name_problems(key, name)
        for key, shares in self.shares():
            yield from share_problems(key, shares, self.normalise_weights)
        yield from self._group_problems()
        yield from self._epoch_problems()
        if isinstance(self.max_epochs, dict):
            yield from count_problems("max_epochs", self.max_epochs)
        elif self.max_epochs is not None:
            yield from count_problems("", {"max_epochs": self.max_epochs})

    def _group_problems(self) -> Iterator[Problem]:
        for group in self.groups:
            if way := way_back(group, self.groups):
                yield f"groups.{group}", f"a group cannot hold itself: {' > '.join(way)}"

    def _epoch_problems(self) -> Iterator[Problem]:
        for index, anchor in enumerate(self.anchors):
            yield from count_problems(f"anchors[{index}].epochs", anchor.epochs)
            for domain in anchor.epochs:
                key = f"anchors[{index}].epochs.{domain}"
                if domain in open_groups(anchor.weights, self.groups) or domain in (anchor.domains or ()):
                    yield key, f"{domain} has a weight at this anchor as well; give it one or the other"
            following = self.anchors[index + 1].ramp if index + 1 < len(self.anchors) else RAMPS[0]
            if anchor.epochs and following != RAMPS[0]:
                expected = "expected step: the weights of the anchor before, which has epochs, hold up to this one"
                yield f"anchors[{index + 1}].ramp", f"{expected}, found {following}"

    def shares(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        """(key, shares) of everything that sums to 1."""
        for group, shares in self.groups.items():
            yield f"groups.{group}", shares
        for index, anchor in enumerate(self.anchors):
            if anchor.weights:
                yield f"anchors[{index}].weights", anchor.weights

    def share_names(self) -> Iterator[tuple[str, str]]:
        """(key, name) wherever a group may be named."""
        return ((f"{key}.{name}", name) for key, shares in self.shares() for name in shares)

    def domain_names(self) -> Iterator[tuple[str, str]]:
        """(key, name) wherever only a domain may be named."""
        for index, anchor in enumerate(self.anchors):
            yield from ((f"anchors[{index}].epochs.{name}", name) for name in anchor.epochs)
            yield from ((f"anchors[{index}].domains[{place}]", name) for place, name in enumerate(anchor.domains or ()))
        if isinstance(self.max_epochs, dict):
            yield from ((f"max_epochs.{name}", name) for name in self.max_epochs)

    def warnings(self) -> Iterator[Problem]:
        """What `normalise_weights` changes; nothing without it."""
        for key, shares in self.shares():
            if not sums_to_one(shares):
                used = ", ".join(f"{name} {float(share):.3g}" for name, share in normalised(shares).items())
                yield key, f"the shares sum to {sum(shares.values()):g}; used as {used}"

    def most_epochs(self, domains: Iterable[str]) -> dict[str, float]:
        """What `max_epochs` allows of these domains; one without a limit is left out."""
        if self.max_epochs is None:
            return {}
        if isinstance(self.max_epochs, dict):
            return {domain: self.max_epochs[domain] for domain in domains if domain in self.max_epochs}
        return dict.fromkeys(domains, self.max_epochs)


def share_problems(key: str, shares: Mapping[str, float], normalise: bool) -> Iterator[Problem]:
    most, expected = (math.inf, "a number of 0 or more") if normalise else (1, "a share from 0 to 1")
    for name, share in shares.items():
        if not 0 <= share <= most or share == math.inf:
            yield f"{key}.{name}", f"expected {expected}, found {share}"
    if not any(shares.values()):
        yield key, "expected a share above 0, found none"
    elif not normalise and not sums_to_one(shares):
        found = f"found {sum(shares.values()):g}"
        yield (
            key,
            f"expected shares that sum to 1, {found} (curriculum.normalise_weights=true divides them by their sum)",
        )


def sums_to_one(shares: Mapping[str, float]) -> bool:
    return math.isclose(sum(shares.values()), 1, abs_tol=1e-6)


def count_problems(key: str, counts: Mapping[str, float]) -> Iterator[Problem]:
    for name, count in counts.items():
        if not 0 < count < math.inf:
            yield join(key, name), f"expected a number of epochs above 0, found {count}"


def name_problems(key: str, name: str) -> Iterator[Problem]:
    if "/" in name:
        yield key, f"a domain cannot be called {name!r}: a metric's name has one between its parts"


def domain_problems(curriculum: CurriculumConfig, manifest: Manifest, dataset: str) -> Iterator[Problem]:
    """Names that are no domain of the dataset, which lies in the folder `dataset`, and no group where one may be."""
    groups = curriculum.groups
    for group in groups:
        if group in manifest.domains:
            yield f"groups.{group}", f"{group} is a domain of {dataset}; give the group another name"
    for key, name in curriculum.domain_names():
        if name in groups:
            yield key, f"{name} is a group; name its domains: {', '.join(open_groups({name: 1}, groups))}"
        else:
            yield from missing_problems(key, name, manifest, dataset, ())
    for key, name in curriculum.share_names():
        if name not in groups:
            yield from missing_problems(key, name, manifest, dataset, groups)
    for index, anchor in enumerate(curriculum.anchors):
        if anchor.temperature is not None and anchor.domains is None:
            for name in manifest.domains:
                yield from name_problems(f"anchors[{index}].temperature", name)


def missing_problems(key: str, name: str, manifest: Manifest, dataset: str, groups: Iterable[str]) -> Iterator[Problem]:
    if name not in manifest.domains:
        known = nearest(name, [*manifest.domains, *groups])
        yield key, f"no such domain in {dataset}{known} (it has {', '.join(manifest.domains)})"
    elif manifest.domains[name].splits["train"].samples == 0:
        yield key, f"the domain has no training samples in {dataset}; leave it out"
