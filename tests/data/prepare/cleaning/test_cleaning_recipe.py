"""What a recipe may say of cleaning, and the sentence for what it may not; the table of steps in the documentation."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from data.prepare.cleaning.length import Characters
from data.prepare.cleaning.steps import DEFAULT, STEPS, build, resolved
from data.prepare.recipe import PrepareRecipe
from train.errors import RecipeError
from train.reader import RecipeSource, read_recipe

DOCUMENT = Path(__file__).parents[4] / "docs" / "prepare.md"
HEAD = """\
output: out
domains:
  web: {sources: [{path: a.jsonl}]}
  code: {sources: [{path: b.jsonl}], cleaning: [unicode]}
"""


def read(tmp_path, cleaning, *overrides):
    path = tmp_path / "data.yaml"
    path.write_text(HEAD + cleaning)
    return read_recipe(PrepareRecipe, RecipeSource(path, overrides))


def test_steps_are_read_in_their_order_with_their_options(tmp_path):
    recipe = read(
        tmp_path,
        "cleaning:\n- unicode\n- characters: {min: 9}\n- gopher_repetition:\n    top_ngrams: {3: 0.5}\n- unicode:\n",
    )
    steps = build(recipe.cleaning_of("web"))
    assert list(steps) == ["unicode", "characters", "gopher_repetition", "unicode_2"]
    assert steps["characters"] == Characters(min=9) and steps["gopher_repetition"].top_ngrams == {3: 0.5}
    assert list(build(recipe.cleaning_of("code"))) == ["unicode"]
    assert list(read(tmp_path, "").cleaning) == list(DEFAULT)
    assert read(tmp_path, "cleaning: []").cleaning_of("web") == []
    assert read(tmp_path, "", "cleaning=[mask_pii]").cleaning_of("web") == ["mask_pii"]


def test_a_default_written_out_is_the_same_recipe():
    assert resolved(["characters", "unicode"]) == resolved([{"characters": {"min": 1, "max": None}}, {"unicode": {}}])


@pytest.mark.parametrize(
    ("cleaning", "sentence"),
    [
        (
            "cleaning: {min_characters: 5}",
            "data.yaml:5: cleaning: expected a list of names .*found {'min_characters': 5}",
        ),
        ("cleaning:\n- unicode\n- gopher", r"data.yaml:7: cleaning\[1\]: no such name: gopher; did you mean gopher_"),
        ("cleaning:\n- {unicode: , c4: }", r"cleaning\[0\]: expected a name or one {name: {option: value}}, found"),
        ("cleaning: [5]", r"cleaning\[0\]: expected a name or one"),
        (
            "cleaning:\n- c4: {min_sentence: 5}",
            r"cleaning\[0\].c4.min_sentence: no such key; did you mean min_sentences",
        ),
        (
            "cleaning:\n- c4: {min_sentences: many}",
            r"cleaning\[0\].c4.min_sentences: expected a whole number, found 'many'",
        ),
        ("cleaning:\n- c4: 5", r"cleaning\[0\].c4: expected keys \(terminal_punctuation, .*found 5"),
        (
            "cleaning:\n- characters: {min: 5, max: 4}",
            r"data.yaml:6: cleaning\[0\].characters.max: expected at least min",
        ),
        ("cleaning:\n- language: {keep: [english]}", r"language.keep: expected ISO 639 codes .*english is none"),
        ("cleaning:\n- language: {min_score: 65}", "language.min_score: expected a number from 0 to 1"),
        ("cleaning:\n- gopher_repetition: {top_ngrams: {1: 0.2}}", "top_ngrams: expected numbers of words"),
        ("cleaning:\n- fineweb_quality: {max_short_lines: 67}", "max_short_lines: expected a number from 0 to 1"),
    ],
)
def test_mistakes_are_named(tmp_path, cleaning, sentence):
    with pytest.raises(RecipeError, match=sentence):
        read(tmp_path, cleaning)


def test_a_mistake_in_a_domains_own_list_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"domains.code.cleaning\[0\]: no such name: nicode; did you mean unicode"):
        read(tmp_path, "", "domains.code.cleaning=[nicode]")


def row(name, kind):
    """A step's row in the table: what it does, its options with their defaults, and whose they are."""
    step = kind()
    options = ", ".join(f"`{of.name}: {shown(getattr(step, of.name))}`" for of in fields(kind)) or "—"
    return f"| `{name}` | {' '.join(kind.__doc__.split())} | {options} | {kind.source} |"


def shown(value):
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {of:g}' for key, of in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:_}" if isinstance(value, int) else f"{value:g}"


def test_the_documentation_has_every_step_with_its_defaults():
    written = [line for line in DOCUMENT.read_text().splitlines() if re.match(r"\| `\w+` \| .* \| .* \| .* \|$", line)]
    assert written == [row(name, kind) for name, kind in STEPS.items()], (
        "write the rows of this list into docs/prepare.md"
    )
