"""A run that goes on under another recipe: what is free is said, what is dangerous must be asked for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.manifest import Manifest
from launch.cli import main
from train.changes import FIXED_KEYS, FREE_KEYS, Change
from train.errors import RecipeError
from train.history import continue_run
from train.inputs import read_run
from train.plan.summary import summarise
from train.recipe import Recipe
from train.run_directory import RunDirectory
from train.schema import has_key

Ask = Callable[..., list[str]]


@pytest.fixture
def recipe(write_run: Callable[..., Path]) -> Path:
    """A recipe and the folder of its run, as the first start leaves it."""
    path = write_run({"web": [400], "code": [400]}, [{"at": "0tok", "weights": {"web": 0.5, "code": 0.5}}])
    settings, manifest = read_run(path, [], 1)
    run = RunDirectory.of(settings)
    plan, _ = continue_run(run, settings, manifest)
    run.path.mkdir(parents=True)
    run.describe(settings, manifest, summarise(settings, manifest, plan, 1))
    return path


@pytest.fixture
def ask(recipe: Path) -> Ask:
    """The changes that these overrides make, if the run may go on with them."""

    def with_overrides(*overrides: str) -> list[str]:
        settings, manifest = read_run(recipe, overrides, 1)
        run = RunDirectory.of(settings)
        run.check_same_run(settings, manifest)
        return [str(change) for change in run.changes(settings)]

    return with_overrides


def rewrite(recipe: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the recipe that the run began with."""
    path = recipe.parent / "runs" / "test" / "recipe.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_the_same_recipe_and_free_changes_pass(ask: Ask) -> None:
    assert ask() == []
    assert ask("save_interval=5ba", "parallel.compile=true") == [
        "save_interval: '1000ba' -> '5ba'",
        "parallel.compile: False -> True",
    ]


def test_a_refusal_shows_every_key(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["seed=5", "optimizer.lr=1", "model.d_model=1024", "save_interval=5ba", "curriculum.seed=2"]
    assert main(["train", str(recipe), *changed]) == 2
    said = capsys.readouterr().err
    lines = said.splitlines()[1:-1]
    assert lines[:2] == [
        "  curriculum.seed: 17 -> 2  (for good: the order of the samples so far follows from it)",
        "  model.d_model: 2048 -> 1024  (for good: the weights in the checkpoints have that shape)",
    ]
    assert lines[2:] == [
        "  optimizer.lr: 0.0003 -> 1.0",
        "  seed: 17 -> 5",
        "  save_interval: '1000ba' -> '5ba'  (free)",
    ]
    assert said.endswith(f"undo that, or choose another run_name, or delete {recipe.parent / 'runs' / 'test'}\n")


def test_what_is_dangerous_passes_where_it_is_named(ask: Ask) -> None:
    with pytest.raises(RecipeError, match=r"allow what is meant \(resume: \{allow: \[optimizer\.lr, seed\]\}\)"):
        ask("optimizer.lr=1", "seed=5")
    with pytest.raises(RecipeError, match=r"allow: \[seed\]"):
        ask("optimizer.lr=1", "seed=5", "resume.allow=[optimizer]")
    with pytest.raises(RecipeError, match=r"seed: 17 -> 5"):
        ask("seed=5", "resume.allow=[optimizer]")
    assert "optimizer.lr: 0.0003 -> 1.0" in ask("optimizer.lr=1", "seed=5", "resume.allow=[optimizer.lr, seed]")


def test_what_is_fixed_can_not_be_allowed(ask: Ask) -> None:
    with pytest.raises(RecipeError, match=r"model\.n_layers: 24 -> 2  \(for good: "):
        ask("model.n_layers=2", "resume.allow=[model]")
    with pytest.raises(RecipeError, match=r"moe_bias_update_rate: None -> 0\.1  \(for good: "):
        ask("model.ffn_config.moe_bias_update_rate=0.1", "resume.allow=[model]")
    assert len(ask("model.resid_pdrop=0.1", "resume.allow=[model]")) == 2


def test_keys_that_came_since_stood_at_their_default(recipe: Path, ask: Ask) -> None:
    def as_it_was(content: dict[str, Any]) -> None:
        del content["on_spike"], content["optimizer"]["beta2"], content["model"]["ffn_config"]["moe_loss_scope"]
        content["optimizer"]["gone_since"] = 3

    rewrite(recipe, as_it_was)
    assert ask() == []
    assert ask("on_spike.action=stop") == ["on_spike.action: 'warn' -> 'stop'"]
    with pytest.raises(RecipeError, match=r"optimizer\.beta2: 0\.95 -> 0\.9\n"):
        ask("optimizer.beta2=0.9")


def test_other_data_must_be_asked_for(recipe: Path, ask: Ask) -> None:
    run = recipe.parent / "runs" / "test"
    manifest = Manifest.read(run)
    manifest.domains["web"].splits["train"].shards[0].hashes["sha1"] = "f" * 40
    manifest = dataclasses.replace(manifest)  # whose fingerprint is not known yet
    manifest.write(run)
    was = manifest.fingerprint[:12]
    with pytest.raises(RecipeError, match=rf"dataset: 'prepared as {was}' -> 'prepared as \w{{12}}'\n"):
        ask()
    assert len(ask("resume.allow=[dataset]")) == 1


def test_only_keys_can_be_allowed(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "resume.allow=[seed, optimizer.rate]"]) == 2
    assert "resume.allow[1]: expected a key of the recipe, found 'optimizer.rate'" in capsys.readouterr().err


def test_the_tables_name_keys() -> None:
    assert [key for key in (*FREE_KEYS, *FIXED_KEYS) if not has_key(Recipe, key)] == []
    assert Change("audit", False, True).free and not Change("auditor", False, True).free
    assert Change("curriculum.anchors[0].at", "0tok", "1tok").free and not Change("dataset", "a", "b").free
