"""What a curriculum cannot be is said in one sentence, before launch; what is taken otherwise than written is told."""

from types import SimpleNamespace

import pytest

from data.manifest import Manifest
from launch.cli import main
from train.curriculum.build import build_plan
from train.errors import RecipeError
from train.inputs import read_run

GROUPS = "curriculum.groups={text: {prose: 0.75, code: 0.25}}"
FIRST = "curriculum.anchors[0]"
LAST = "curriculum.anchors[1]"
ONLY = "curriculum.anchors="
ONE_ANCHOR = "curriculum.anchors=[{at: 0tok, weights: {prose: 0.5, code: 0.5}}]"
LONG = "max_duration=20_000ba"

# (overrides, the key that the sentence must name, words that it must have)
MISTAKES = [
    # weights that do not sum to 1
    ([f"{FIRST}.weights={{prose: 3, code: 1}}"], f"{FIRST}.weights", "a share from 0 to 1, found 3"),
    (
        [f"{FIRST}.weights={{prose: 0.5, code: 0.25}}"],
        f"{FIRST}.weights",
        "expected shares that sum to 1, found 0.75 (curriculum.normalise_weights=true divides them by their sum)",
    ),
    (["curriculum.normalize_weights=true"], "curriculum.normalize_weights", "did you mean normalise_weights?"),
    (
        ["curriculum.normalise_weights=true", f"{FIRST}.weights.prose=-1"],
        f"{FIRST}.weights.prose",
        "a number of 0 or more",
    ),
    (["curriculum.normalise_weights=true", f"{FIRST}.weights.prose=.inf"], f"{FIRST}.weights.prose", "0 or more"),
    (["curriculum.normalise_weights=true", f"{FIRST}.weights.prose=.nan"], f"{FIRST}.weights.prose", "0 or more"),
    (
        ["curriculum.normalise_weights=true", f"{FIRST}.weights={{prose: 0}}"],
        f"{FIRST}.weights",
        "expected a share above 0, found none",
    ),
    # temperature
    ([f"{FIRST}.temperature=2"], f"{FIRST}.weights", "expected weights or a temperature, found both"),
    ([f"{FIRST}.weights={{}}"], f"{FIRST}.weights", "expected weights or a temperature, found neither"),
    ([ONLY + "[{at: 0tok, temperature: 0}]"], f"{FIRST}.temperature", "0.1 or more (1 is by size, .inf is even)"),
    ([ONLY + "[{at: 0tok, temperature: .nan}]"], f"{FIRST}.temperature", "0.1 or more"),
    ([ONLY + "[{at: 0tok, temperature: hot}]"], f"{FIRST}.temperature", "expected a number, found 'hot'"),
    ([ONLY + "[{at: 0tok, temperature: 2, domains: []}]"], f"{FIRST}.domains", "at least one domain, or null"),
    ([ONLY + "[{at: 0tok, temperature: 2, domains: [cod]}]"], f"{FIRST}.domains[0]", "did you mean code?"),
    (
        [GROUPS, ONLY + "[{at: 0tok, temperature: 2, domains: [text]}]"],
        f"{FIRST}.domains[0]",
        "text is a group; name its domains: prose, code",
    ),
    ([f"{FIRST}.domains=[code]"], f"{FIRST}.domains", "there is no temperature; remove it"),
    (
        [ONLY + "[{at: 0tok, temperature: 2, epochs: {code: 0.01, prose: 0.01}}]"],
        f"{FIRST}.temperature",
        "no other domain of",
    ),
    # epochs of a domain over a span
    ([f"{LAST}.epochs.code=0"], f"{LAST}.epochs.code", "a number of epochs above 0, found 0"),
    ([f"{LAST}.epochs.code=.inf"], f"{LAST}.epochs.code", "a number of epochs above 0, found inf"),
    ([f"{LAST}.epochs.cod=1"], f"{LAST}.epochs.cod", "did you mean code?"),
    ([GROUPS, f"{LAST}.epochs.text=1"], f"{LAST}.epochs.text", "text is a group; name its domains"),
    ([f"{FIRST}.epochs.code=1"], f"{FIRST}.epochs.code", "code has a weight at this anchor as well"),
    (
        [GROUPS, f"{FIRST}.weights={{text: 1}}", f"{FIRST}.epochs.code=1"],
        f"{FIRST}.epochs.code",
        "code has a weight at this anchor as well",
    ),
    (
        [f"{FIRST}.weights={{prose: 1}}", f"{FIRST}.epochs.code=0.01"],
        f"{LAST}.ramp",
        "expected step: the weights of the anchor before, which has epochs, hold up to this one, found linear",
    ),
    (
        [f"{FIRST}.weights={{prose: 1}}", f"{FIRST}.epochs.code=50", f"{LAST}.ramp=step"],
        f"{FIRST}.epochs",
        "the epochs (50 of code) take ",
    ),
    (
        [f"{LAST}.weights={{prose: 1}}", f"{LAST}.at=2dur", f"{LAST}.epochs.code=1"],
        f"{LAST}.epochs",
        "and there are 0 up to the next anchor, or the run's end",
    ),
    # max_epochs
    (["curriculum.max_epochs=0"], "curriculum.max_epochs", "a number of epochs above 0, found 0"),
    (["curriculum.max_epochs={code: -1}"], "curriculum.max_epochs.code", "above 0, found -1"),
    (["curriculum.max_epochs=much"], "curriculum.max_epochs", "expected a number, found 'much'"),
    (["curriculum.max_epochs={code: many}"], "curriculum.max_epochs.code", "expected a number, found 'many'"),
    (["curriculum.max_epochs=[1]"], "curriculum.max_epochs", "expected a number, found [1]"),
    (["curriculum.max_epochs={cod: 1}"], "curriculum.max_epochs.cod", "did you mean code?"),
    ([GROUPS, "curriculum.max_epochs={text: 1}"], "curriculum.max_epochs.text", "text is a group"),
    (["curriculum.when_used_up=realocate"], "curriculum.when_used_up", "did you mean reallocate?"),
    ([ONE_ANCHOR, LONG, "curriculum.max_epochs={code: 2}"], "curriculum.max_epochs", "code is used up in step "),
    ([ONE_ANCHOR, LONG, "curriculum.max_epochs=2"], "curriculum.max_epochs", "is used up in step "),
    (
        [ONE_ANCHOR, LONG, "curriculum.max_epochs=2", "curriculum.when_used_up=reallocate"],
        "curriculum.max_epochs",
        "no other domain has a weight that could grow in its place",
    ),
    # groups
    (["curriculum.groups={text: [prose]}"], "curriculum.groups.text", "expected names and values"),
    (["curriculum.groups={text: {prose: a}}"], "curriculum.groups", "expected a number, found 'a'"),
    (["curriculum.groups={text: {}}"], "curriculum.groups", "expected a share above 0, found none"),
    (["curriculum.groups={text: {prose: 0.5, code: 0.3}}"], "curriculum.groups", "sum to 1, found 0.8"),
    (["curriculum.groups={text: {prose: 0.5, cod: 0.5}}"], "curriculum.groups", "did you mean code?"),
    (["curriculum.groups={text: {a/b: 1}}"], "curriculum.groups", "a domain cannot be called 'a/b'"),
    (["curriculum.groups={code: {prose: 1}}"], "curriculum.groups", "give the group another name"),
    (["curriculum.groups={a: {a: 1}}"], "curriculum.groups", "a group cannot hold itself: a > a"),
    (
        ["curriculum.groups={a: {b: 1}, b: {prose: 0.5, c: 0.5}, c: {a: 1}}", f"{FIRST}.weights={{a: 1}}"],
        "curriculum.groups",
        "a group cannot hold itself: a > b > c > a",
    ),
    ([GROUPS, f"{FIRST}.weights={{txt: 1}}"], f"{FIRST}.weights", "did you mean text?"),
]


@pytest.mark.parametrize(("overrides", "key", "words"), MISTAKES)
def test_a_mistake(workshop: SimpleNamespace, overrides: list[str], key: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_run(workshop.recipe, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert key in sentence
    assert words in sentence


def test_a_domain_that_is_used_up_is_told_with_step_tokens_and_epochs(workshop: SimpleNamespace) -> None:
    """In a file, with its line: half of all samples are code, of which 2 epochs are allowed."""
    rows = Manifest.read(workshop.dataset).domains["code"].splits["train"].samples
    file = workshop.root / "used_up.yaml"
    file.write_text(workshop.recipe.read_text().replace("curriculum:\n", "curriculum:\n  max_epochs: {code: 2}\n"))
    line = file.read_text().splitlines().index("  max_epochs: {code: 2}") + 1
    steps = -(-rows * 5 // 8)  # of 8 samples: half of them are 2.5 epochs
    with pytest.raises(RecipeError) as caught:
        read_run(file, [ONE_ANCHOR, f"max_duration={steps}ba"])
    sentence = str(caught.value)
    step = 4 * rows // 8 + 1  # 2 epochs lie in the first 4 * rows samples; the next one would be more
    assert f"{file}:{line}: curriculum.max_epochs.code: code is used up in step {step:,} of {steps:,} (" in sentence
    assert "the curriculum asks for 2.5" in sentence
    assert " epochs of it, where 2 are allowed (" in sentence
    assert sentence.endswith("; ask for less of it, allow more, or set curriculum.when_used_up=reallocate")


def test_weights_that_are_normalised_are_told_once(
    workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["curriculum.normalise_weights=true", f"{FIRST}.weights={{prose: 3, code: 2}}"]
    assert main(["plan", str(workshop.recipe), "--json", *overrides]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("{")
    warnings = [line for line in error.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(f"override {overrides[1]}: the shares sum to 5; used as prose 0.6, code 0.4")
    monkeypatch.setenv("RANK", "1")
    read_run(workshop.recipe, overrides)
    assert "warning" not in capsys.readouterr().err


def test_every_way_to_say_a_curriculum_in_one_recipe(workshop: SimpleNamespace) -> None:
    text = workshop.recipe.read_text()
    curriculum = """\
curriculum:
  groups:
    text: {prose: 3, rest: 1}
    rest: {code: 1}
  normalise_weights: true
  max_epochs: 4
  when_used_up: reallocate
  anchors:
    - {at: 0tok, weights: {text: 2, code: 2}}
    - {at: 20ba, temperature: .inf, ramp: cosine}
    - {at: 40ba, weights: {prose: 1}, epochs: {code: 0.05}}

"""
    file = workshop.root / "everything.yaml"
    file.write_text(text[: text.index("curriculum:")] + curriculum + text[text.index("model:") :])
    recipe, manifest = read_run(file, ["max_duration=60ba"])
    plan = build_plan(recipe, manifest)
    assert plan.domains == ("prose", "code")
    assert plan.weights(0) == pytest.approx([3 / 8, 5 / 8])
    assert plan.weights(160) == pytest.approx([1 / 2, 1 / 2])
    twentieth = manifest.domains["code"].splits["train"].samples // 20
    assert abs(int(plan.delivered(480)[1] - plan.delivered(320)[1]) - twentieth) <= 1
