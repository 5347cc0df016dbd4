"""A recipe's curriculum becomes weights of the dataset's domains: held to the real plan's counts."""

import dataclasses
import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from data.manifest import DomainRecord, Manifest, ShardRecord, SplitRecord, TokenizerRecord
from data.mixture.schedule import RAMPS, WEIGHT_UNIT, Schedule, quantise
from train.curriculum.build import Exhaustion, build_plan, build_schedule, exhaustions
from train.curriculum.config import AnchorConfig, CurriculumConfig
from train.curriculum.shares import open_groups, tempered
from train.errors import CurriculumError
from train.reader import RecipeSource, read_recipe
from train.recipe import DatasetConfig, Recipe
from train.schema import value_problems

SEQ_LEN, BATCH = 10, 4
NAMES = ("web", "code", "math", "books")

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def manifest_of(rows: dict[str, int]) -> Manifest:
    """Domains with these many training samples, in one shard each."""
    tokenizer = TokenizerRecord("bpe", 100, 0, "f", "tokenizer")
    domains = {
        name: DomainRecord(1, {}, 0, 1, [], {}, {"train": split(count), "heldout": split(1)}, None)
        for name, count in rows.items()
    }
    return Manifest(SEQ_LEN, "uint16", 1, 0.1, tokenizer, domains, "r", {})


def split(samples: int) -> SplitRecord:
    shards = [ShardRecord("0.mds", samples, 1, {"sha1": "0"})] if samples else []
    return SplitRecord(1, samples * SEQ_LEN, 0, samples, shards)


def recipe_of(anchors: list[AnchorConfig], samples: int, **curriculum: Any) -> Recipe:
    recipe = Recipe(
        "test", f"{samples}sp", BATCH, SEQ_LEN, DatasetConfig("dataset"), CurriculumConfig(anchors, **curriculum)
    )
    assert not list(value_problems(recipe))
    return recipe


def end_of(recipe: Recipe) -> int:
    return recipe.steps * BATCH


@st.composite
def some_weights(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    """Weights of a few domains, at least one above 0; they sum to anything."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    weights = {name: draw(st.integers(0, 100)) / 8 for name in chosen}
    weights[chosen[0]] += 0.5
    return weights


@st.composite
def some_anchors(draw: st.DrawFn, most: int = 500) -> list[AnchorConfig]:
    """Up to four anchors with any ramps and weights."""
    places = sorted(draw(st.sets(st.integers(1, most), max_size=3)))
    anchors = [AnchorConfig("0tok", draw(some_weights()))]
    for place in places:
        anchors.append(AnchorConfig(f"{place}sp", draw(some_weights()), draw(st.sampled_from(RAMPS))))
    return anchors


some_rows = st.fixed_dictionaries({name: st.integers(1, 200) for name in NAMES})


def test_plain_weights_are_taken_as_they_are() -> None:
    weights = {"web": 0.6, "code": 0.3, "math": 0.1}
    recipe = recipe_of([AnchorConfig("0tok", weights), AnchorConfig("50sp", {"code": 1.0}, "cosine")], 100)
    schedule = build_schedule(recipe, manifest_of(dict.fromkeys(NAMES, 10)))
    assert schedule.domains == ("web", "code", "math")
    assert [(anchor.at, anchor.ramp) for anchor in schedule.anchors] == [(0, "step"), (50, "cosine")]
    for anchor, asked in zip(schedule.anchors, (weights, {"code": 1.0}), strict=True):
        typed = {name: Fraction(str(weight)) for name, weight in asked.items()}  # 0.1 is a tenth, not a binary float
        assert anchor.weights == quantise(typed, schedule.domains)


@quick
@given(some_anchors(), some_rows)
def test_weights_are_divided_by_their_sum(anchors: list[AnchorConfig], rows: dict[str, int]) -> None:
    schedule = build_schedule(recipe_of(anchors, 600, normalise_weights=True), manifest_of(rows))
    for asked, anchor in zip(anchors, schedule.anchors, strict=True):
        assert sum(anchor.weights) == WEIGHT_UNIT
        total = sum(asked.weights.values())
        for name, weight in zip(schedule.domains, anchor.weights, strict=True):
            assert weight / WEIGHT_UNIT == pytest.approx(asked.weights.get(name, 0) / total, abs=1e-11)
            assert (weight == 0) == (asked.weights.get(name, 0) == 0)  # none is none, and little is not none


@quick
@given(st.lists(some_weights(("a", "b", "c")), min_size=3, max_size=3))
def test_weights_of_groups_multiply(shares: list[dict[str, float]]) -> None:
    """Three levels, in which names of one level are groups of the next."""
    top, middle, bottom = shares
    groups = {name: {f"{name}{inner}": share for inner, share in middle.items()} for name in top}
    groups |= {
        f"{outer}{inner}": {f"{outer}{inner}{leaf}": share for leaf, share in bottom.items()}
        for outer, inner in itertools.product(top, middle)
    }
    sums = [sum(Fraction(share) for share in level.values()) for level in shares]
    opened = open_groups(top, groups)
    assert sum(opened.values()) == 1
    for (a, first), (b, second), (c, third) in itertools.product(*(level.items() for level in shares)):
        product = Fraction(first) * Fraction(second) * Fraction(third)
        assert opened[a + b + c] == product / (sums[0] * sums[1] * sums[2])


def test_the_example_in_the_readme(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(curriculum:\n.*?)```", readme, re.DOTALL)
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "{run_name: readme, max_duration: 12Ttok, global_train_batch_size: 4096, max_seq_len: 2048, "
        "model: {max_seq_len: 2048}, dataset: {path: there}}"
    )
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | yaml.safe_load(example)))
    recipe = read_recipe(Recipe, RecipeSource(file))
    rows = {"en": 2 * 10**9, "de": 10**9, "code": 3 * 10**8, "math": 5 * 10**7}
    manifest = manifest_of(rows)
    plan = build_plan(recipe, manifest)
    drawn = dict(zip(plan.domains, plan.delivered(recipe.end).tolist(), strict=True))
    assert [exhaustion.domain for exhaustion in exhaustions(recipe, manifest)] == ["math", "code"]
    assert drawn["en"] + drawn["de"] + drawn["code"] + drawn["math"] == recipe.end
    assert 0 <= 6 * rows["math"] - drawn["math"] <= 2
    assert 0 <= 4 * rows["code"] - drawn["code"] <= 2


def test_two_ways_to_a_domain_add_up() -> None:
    groups = {"web": {"en": 0.7, "wiki": 0.3}, "facts": {"wiki": 0.5, "books": 0.5}}
    opened = open_groups({"web": 0.5, "facts": 0.4, "wiki": 0.1}, groups)
    assert opened == {"en": Fraction(35, 100), "wiki": Fraction(45, 100), "books": Fraction(20, 100)}


def test_groups_in_a_recipe() -> None:
    """The plan knows domains only."""
    groups = {"web": {"code": 0.7, "books": 0.3}}
    recipe = recipe_of([AnchorConfig("0tok", {"web": 0.8, "math": 0.2})], 1000, groups=groups)
    plan = build_plan(recipe, manifest_of(dict.fromkeys(NAMES, 100)))
    assert plan.domains == ("code", "books", "math")
    assert plan.delivered(1000).tolist() == [560, 240, 200]


@quick
@given(some_rows, st.floats(0.1, 100), st.floats(0.1, 100))
def test_temperature(rows: dict[str, int], one: float, another: float) -> None:
    total = sum(rows.values())
    by_size, even = tempered(rows, 1), tempered(rows, float("inf"))
    for name, count in rows.items():
        assert float(by_size[name]) == pytest.approx(count / total, rel=1e-12)
        assert even[name] == Fraction(1, len(rows))
    cool, warm = (tempered(rows, temperature) for temperature in sorted((one, another)))
    largest = max(rows, key=lambda name: rows[name])
    assert sum(warm.values()) == 1
    assert float(warm[largest]) <= float(cool[largest]) * (1 + 1e-12)  # warmer is more even
    for name, count in rows.items():
        ratio = (count / rows[largest]) ** (1 / max(one, another))
        assert float(warm[name] / warm[largest]) == pytest.approx(ratio, rel=1e-9)


def test_temperature_in_a_recipe() -> None:
    manifest = manifest_of({"web": 900, "code": 100, "math": 0, "books": 400})
    everything = build_schedule(recipe_of([AnchorConfig("0tok", temperature=2)], 100), manifest)
    assert everything.domains == ("web", "code", "books")  # what is empty has no share
    assert everything.anchors[0].weights == quantise({"web": 3, "code": 1, "books": 2}, everything.domains)
    listed = build_schedule(recipe_of([AnchorConfig("0tok", temperature=2, domains=["code", "web"])], 100), manifest)
    assert listed.domains == ("code", "web")
    assert listed.anchors[0].weights == quantise({"web": 3, "code": 1}, listed.domains)
    beside = build_schedule(recipe_of([AnchorConfig("0tok", temperature=2, epochs={"books": 0.1})], 80), manifest)
    assert beside.domains == ("web", "code", "books")
    assert beside.anchors[0].weights == quantise({"web": 3, "code": 1, "books": 4}, beside.domains)


@st.composite
def epochs_over_a_span(draw: st.DrawFn) -> tuple[Recipe, dict[str, int], int, int]:
    """A recipe with epochs at one of its anchors, the rows of its domains, and the span of that anchor."""
    anchors = draw(some_anchors())
    rows = draw(some_rows)
    samples = draw(st.integers(501, 700))
    index = draw(st.integers(0, len(anchors) - 1))
    places = [0, *(int(anchor.at.removesuffix("sp")) for anchor in anchors[1:])]
    start, stop = places[index], [*places[1:], -(-samples // BATCH) * BATCH][index]
    given_in_epochs = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True))
    epochs = {name: draw(st.integers(1, 40)) / 8 for name in given_in_epochs}
    assume(sum(Fraction(count) * rows[name] for name, count in epochs.items()) <= stop - start)
    others = tuple(name for name in NAMES if name not in epochs)
    anchors[index] = dataclasses.replace(anchors[index], weights=draw(some_weights(others)), epochs=epochs)
    if index + 1 < len(anchors):
        anchors[index + 1] = dataclasses.replace(anchors[index + 1], ramp="step")
    return recipe_of(anchors, samples, normalise_weights=True), rows, start, stop


@quick
@given(epochs_over_a_span())
def test_epochs_over_a_span(case: tuple[Recipe, dict[str, int], int, int]) -> None:
    recipe, rows, start, stop = case
    plan = build_plan(recipe, manifest_of(rows))
    drawn = dict(zip(plan.domains, (plan.delivered(stop) - plan.delivered(start)).tolist(), strict=True))
    anchor = next(anchor for anchor in recipe.curriculum.anchors if anchor.epochs)
    for name, epochs in anchor.epochs.items():
        assert abs(drawn[name] - int(Fraction(epochs) * rows[name])) <= 1
    left = stop - start - sum(drawn[name] for name in anchor.epochs)
    total = sum(anchor.weights.values())
    for name, weight in anchor.weights.items():
        assert abs(drawn[name] - left * weight / total) < 4  # as they are without, from what is left


@pytest.mark.parametrize("ramp", RAMPS)
def test_a_short_run_of_a_recipe_with_epochs_at_its_end(ramp: str) -> None:
    """The last anchor is never reached, nor a ramp to it: a trial of the first steps is no mistake."""
    anchors = [
        AnchorConfig("0tok", {"web": 1}),
        AnchorConfig("100sp", {"code": 1}),
        AnchorConfig("200sp", {"web": 1}, ramp, epochs={"math": 4}),
    ]
    manifest = manifest_of({"web": 50, "code": 50, "math": 10})
    assert build_plan(recipe_of(anchors, 280), manifest).delivered(280)[2] >= 39
    assert build_plan(recipe_of(anchors, 100), manifest).delivered(100).tolist() == [100, 0, 0]
    with pytest.raises(CurriculumError, match=r"the epochs \(4 of math\) take 40 samples, and there are 20"):
        build_plan(recipe_of(anchors, 220), manifest)


def test_epochs_at_the_end_of_a_run_of_three_billion_samples() -> None:
    rows = {"web": 2_000_000_000, "code": 300_000_000, "math": 7_654_321}
    anchors = [
        AnchorConfig("0tok", {"web": 0.8, "code": 0.2}),
        AnchorConfig("2_500_000_000sp", {"web": 0.8, "code": 0.2}, epochs={"math": 4}),
    ]
    recipe = recipe_of(anchors, 3_000_000_000, max_epochs={"math": 4})
    plan = build_plan(recipe, manifest_of(rows))
    assert plan.domains == ("web", "code", "math")
    assert 4 * rows["math"] - 1 <= plan.delivered(3_000_000_000)[2] <= 4 * rows["math"]


@st.composite
def limited(draw: st.DrawFn, when_used_up: str) -> tuple[Recipe, Manifest, dict[str, int]]:
    """A recipe with limits on some domains, and the samples that they may have."""
    rows = draw(some_rows)
    most = {name: draw(st.integers(1, 24)) / 8 for name in draw(st.sets(st.sampled_from(NAMES), min_size=1))}
    samples = draw(st.integers(1, 700))
    recipe = recipe_of(
        draw(some_anchors()), samples, normalise_weights=True, max_epochs=most, when_used_up=when_used_up
    )
    limits = {name: int(Fraction(most[name]) * rows[name]) for name in most}
    return recipe, manifest_of(rows), limits


@quick
@given(limited("error"))
def test_more_than_max_epochs_is_refused(case: tuple[Recipe, Manifest, dict[str, int]]) -> None:
    """Exactly where the same recipe without limits would draw more."""
    recipe, manifest, limits = case
    without = dataclasses.replace(recipe, curriculum=dataclasses.replace(recipe.curriculum, max_epochs=None))
    free = build_plan(without, manifest)
    drawn = dict(zip(free.domains, free.delivered(end_of(recipe)).tolist(), strict=True))
    try:
        build_plan(recipe, manifest)
    except CurriculumError as error:
        name = error.key.removeprefix("curriculum.max_epochs.")
        assert drawn[name] >= limits[name]
        assert f"{name} is used up in step " in error.sentence
    else:
        assert all(drawn[name] <= limit for name, limit in limits.items() if name in drawn)


@settings(quick, max_examples=150)
@given(limited("reallocate"))
def test_max_epochs_are_never_exceeded(case: tuple[Recipe, Manifest, dict[str, int]]) -> None:
    recipe, manifest, limits = case
    try:
        plan, found = build_plan(recipe, manifest), exhaustions(recipe, manifest)
    except CurriculumError as error:
        assert "no other domain has a weight that could grow in its place" in error.sentence
        return
    end = end_of(recipe)
    assert all(sum(anchor.weights) == WEIGHT_UNIT for anchor in plan.schedule.anchors)
    assert all(a.at < b.at for a, b in itertools.pairwise(plan.schedule.anchors))
    drawn = dict(zip(plan.domains, plan.delivered(end).tolist(), strict=True))
    for name, limit in limits.items():
        assert drawn.get(name, 0) <= limit
    for exhaustion in found:
        number = plan.domains.index(exhaustion.domain)
        last = plan.delivered(exhaustion.sample)[number]
        assert last == drawn[exhaustion.domain]
        assert last >= limits[exhaustion.domain] - 2
        assert all(plan.weights(sample)[number] == 0 for sample in range(exhaustion.sample, end))


@quick
@given(limited("reallocate"), st.integers(1, 700))
def test_a_longer_run_has_the_same_past(case: tuple[Recipe, Manifest, dict[str, int]], more: int) -> None:
    recipe, manifest, _ = case
    longer = dataclasses.replace(recipe, max_duration=f"{end_of(recipe) + more}sp")
    try:
        before, after = build_schedule(recipe, manifest), build_schedule(longer, manifest)
    except CurriculumError:
        return
    assert all(before.weights_at(sample) == after.weights_at(sample) for sample in range(end_of(recipe)))


@settings(quick, max_examples=25)
@given(st.sampled_from(RAMPS), some_weights(), some_weights(), some_rows)
def test_the_others_keep_their_proportions(
    ramp: str, first: dict[str, float], last: dict[str, float], rows: dict[str, int]
) -> None:
    """Everywhere on a long ramp, the weights are those of the ramp without the domains that are used up."""
    anchors = [AnchorConfig("0tok", first), AnchorConfig("500_000sp", last, ramp)]
    rows = {name: count * 100 for name, count in rows.items()} | {"books": 10**6}
    limits = {"max_epochs": {name: 1 for name in NAMES if name != "books"}}
    manifest = manifest_of(rows)
    plain = build_schedule(recipe_of(anchors, 600_000, normalise_weights=True), manifest)
    recipe = recipe_of(anchors, 600_000, normalise_weights=True, when_used_up="reallocate", **limits)
    try:
        schedule, found = build_schedule(recipe, manifest), exhaustions(recipe, manifest)
    except CurriculumError:
        assume(False)
    near = [place + step for place in (0, 500_000, *(e.sample for e in found)) for step in (-100, -2, -1, 0, 1, 100)]
    for sample in sorted({*range(0, 600_000, 49_999), *(place for place in near if 0 <= place < 600_000)}):
        gone = {exhaustion.domain for exhaustion in found if exhaustion.sample <= sample}
        expected = without(plain, sample, gone)
        for weight, name in zip(schedule.weights_at(sample), schedule.domains, strict=True):
            assert weight / WEIGHT_UNIT == pytest.approx(expected[name], abs=2e-4)


def without(schedule: Schedule, sample: int, gone: set[str]) -> dict[str, float]:
    weights = dict(zip(schedule.domains, schedule.weights_at(sample), strict=True))
    left = sum(weight for name, weight in weights.items() if name not in gone)
    return {name: 0 if name in gone else weight / left for name, weight in weights.items()}


def test_domains_that_are_used_up_one_after_another() -> None:
    anchors = [AnchorConfig("0tok", {"web": 0.5, "code": 0.25, "math": 0.25})]
    recipe = recipe_of(anchors, 1200, max_epochs={"math": 2, "code": 3}, when_used_up="reallocate")
    manifest = manifest_of({"web": 300, "code": 100, "math": 50})
    # math: 100 samples at 0.25, while code has 100 as well; then code has 200 more at 1/3.
    assert exhaustions(recipe, manifest) == [Exhaustion("math", 400, 2), Exhaustion("code", 1000, 3)]
    plan = build_plan(recipe, manifest)
    assert plan.delivered(400).tolist() == [200, 100, 100]
    assert plan.delivered(1000).tolist() == [600, 300, 100]
    assert plan.delivered(1200).tolist() == [800, 300, 100]


def test_epochs_over_a_span_hold_when_another_domain_is_used_up() -> None:
    anchors = [AnchorConfig("0tok", {"web": 0.5, "code": 0.5}, epochs={"math": 4})]
    manifest = manifest_of({"web": 100, "code": 500, "math": 50})
    recipe = recipe_of(anchors, 600, max_epochs={"web": 1}, when_used_up="reallocate")
    plan = build_plan(recipe, manifest)
    assert [exhaustion.domain for exhaustion in exhaustions(recipe, manifest)] == ["web"]
    web, code, math = plan.delivered(600).tolist()
    assert 98 <= web <= 100
    assert 199 <= math <= 200
    assert web + code + math == 600


def test_one_limit_for_every_domain() -> None:
    recipe = recipe_of([AnchorConfig("0tok", {"web": 0.5, "code": 0.5})], 600, max_epochs=4, when_used_up="reallocate")
    found = exhaustions(recipe, manifest_of({"web": 500, "code": 50}))
    assert [(exhaustion.domain, exhaustion.max_epochs) for exhaustion in found] == [("code", 4)]
