"""A run begins with given weights: another run's, or imported ones, on any number of ranks."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from data.errors import DataError
from launch.cli import main
from train.checkpoints.contents import Contents, dataset_tokenizer, find_checkpoint, read_contents
from train.checkpoints.weights import CheckpointWeights
from train.errors import RecipeError
from train.inputs import read_run
from train.recipe import DatasetConfig

from processes import brickyard

QUIET = ["model.resid_pdrop=0", "model.ffn_config.moe_jitter_eps=null", "wandb.mode=disabled"]
# So little that no weight changes: what a run ends with is what it began with.
STANDING_STILL = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "max_duration=2ba", "seed=99"]


@pytest.fixture(scope="module")
def base(workshop: SimpleNamespace) -> SimpleNamespace:
    """A run of four steps, its export, and that imported again."""
    code, log = train(workshop, "base", "max_duration=4ba")
    assert code == [0], log
    run, folder, imported = (workshop.root / name for name in ("runs/base", "exported", "imported"))
    assert main(["export", str(run), str(folder)]) == 0
    assert main(["import", str(folder), str(imported)]) == 0
    return SimpleNamespace(run=run, folder=folder, imported=imported)


def train(workshop: SimpleNamespace, name: str, *overrides: str, ranks: int = 1) -> tuple[list[int | None], str]:
    log = workshop.root / f"{name}.log"
    code = brickyard(["train", str(workshop.recipe), f"run_name={name}", *QUIET, *overrides], log, ranks)
    return code, log.read_text()


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = CheckpointWeights(find_checkpoint(checkpoint))
    return {name: weights.read(name) for name in weights.shapes}


def assert_bit_equal(one: Path, other: Path) -> None:
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_runs_checkpoint_says_what_it_is(base: SimpleNamespace, workshop: SimpleNamespace) -> None:
    recipe, manifest = read_run(workshop.recipe, QUIET)
    contents = read_contents(find_checkpoint(base.run))
    assert contents.model == recipe.model
    assert contents.tokenizer is not None
    assert contents.tokenizer.fingerprint == manifest.tokenizer.fingerprint


def test_imported_weights_are_the_runs(base: SimpleNamespace) -> None:
    assert_bit_equal(base.run, base.imported)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_begins_with_them_on_any_number_of_ranks(
    base: SimpleNamespace, workshop: SimpleNamespace, ranks: int
) -> None:
    name, weights = f"still-{ranks}", workshop.root / f"given-{ranks}"
    shutil.copytree(base.imported, weights)
    begin = [f"initial_weights={weights}", *STANDING_STILL]
    code, log = train(workshop, name, *begin, ranks=ranks)
    assert code == [0] * ranks, log
    assert f"beginning with the weights in {weights}" in log
    assert_bit_equal(base.imported, workshop.root / "runs" / name)
    shutil.rmtree(weights)  # the run goes on by itself
    code, log = train(workshop, name, *begin, "max_duration=3ba", ranks=ranks)
    assert code == [0] * ranks, log
    assert log.count("beginning with the weights") == 1
    assert_bit_equal(base.imported, workshop.root / "runs" / name)


def test_training_goes_on_from_them(base: SimpleNamespace, workshop: SimpleNamespace) -> None:
    """The run's folder and its export, imported, begin the same run, which has learned already."""
    rows = {}
    for name, weights in (("from-run", base.run), ("from-imported", base.imported)):
        assert train(workshop, name, f"initial_weights={weights}", "max_duration=3ba")[0] == [0]
        rows[name] = losses(workshop.root / "runs" / name)
    assert rows["from-run"] == rows["from-imported"]
    assert rows["from-run"][0] < losses(base.run)[0] - 0.02


def losses(run: Path) -> list[float]:
    rows = [yaml.safe_load(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss/cross_entropy"] for row in rows if "loss/cross_entropy" in row]


def test_weights_that_do_not_fit_are_refused(
    base: SimpleNamespace, workshop: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(*overrides: str) -> str:
        assert main(["train", str(workshop.recipe), "run_name=refused", *QUIET, *overrides]) == 2
        sentence = capfd.readouterr().err
        assert sentence.count("\n") == 1
        return sentence

    weights = f"initial_weights={base.imported}"
    words = f"as the weights in {base.imported} have it"
    assert f"override model.d_model=64: expected 32, {words}, found 64" in refused(weights, "model.d_model=64")
    assert f"expected 2, {words}, found 4" in refused(weights, "model.attn_config.kv_n_heads=4")
    assert "initial_weights=/nowhere: /nowhere: no such folder" in refused("initial_weights=/nowhere")
    assert "is a Hugging Face folder; `brickyard import" in refused(f"initial_weights={base.folder}")
    other = tmp_path / "other"
    shutil.copytree(base.imported, other)
    contents = read_contents(other)
    assert contents.tokenizer is not None
    ranks = contents.tokenizer.ranks
    swapped = {**ranks, b"a": ranks[b"b"], b"b": ranks[b"a"]}
    tokenizer = type(contents.tokenizer)(
        "other", contents.tokenizer.pattern, swapped, contents.tokenizer.special_tokens
    )
    Contents(contents.model, tokenizer).write(other)
    assert "were trained on other tokens than those of" in refused(f"initial_weights={other}")


def test_what_may_be_meant_is_said(
    base: SimpleNamespace, workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def warnings(*overrides: str) -> str:
        read_run(workshop.recipe, ["run_name=warned", f"initial_weights={base.imported}", *overrides])
        return capsys.readouterr().err

    assert warnings() == ""
    assert "model.attn_config.rope_theta" in (said := warnings("model.attn_config.rope_theta=5e5"))
    assert "were trained with 10000.0, this run has 500000.0" in said
    assert "were trained with 2, this run has 1" in warnings("model.ffn_config.moe_top_k=1")


def test_weights_that_are_not_what_their_config_says(
    base: SimpleNamespace, workshop: SimpleNamespace, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(base.imported, other)
    model = other / "model.yaml"
    model.write_text(model.read_text().replace("n_layers: 2", "n_layers: 3"))
    code, log = train(workshop, "not-so", f"initial_weights={other}", "model.n_layers=3")
    assert code == [2]
    assert "transformer.blocks.2." in log
    assert "found nothing" in log
    assert "Traceback" not in log


def test_a_datasets_tokenizer_is_brought_from_its_remote_and_must_be_the_one(workshop: SimpleNamespace) -> None:
    _, manifest = read_run(workshop.recipe, QUIET)
    cache = workshop.root / "tokenizer-cache"
    cache.mkdir()
    afar = DatasetConfig(str(cache), remote=str(workshop.dataset))
    assert dataset_tokenizer(afar, manifest).fingerprint == manifest.tokenizer.fingerprint
    here = DatasetConfig(str(cache))
    assert dataset_tokenizer(here, manifest).fingerprint == manifest.tokenizer.fingerprint
    other = replace(manifest, tokenizer=replace(manifest.tokenizer, fingerprint="0" * 64))
    with pytest.raises(DataError, match="is not the tokenizer that the dataset was prepared with"):
        dataset_tokenizer(here, other)
    shutil.rmtree(cache / "tokenizer")
    with pytest.raises(DataError, match="can't read the tokenizer's"):
        dataset_tokenizer(here, manifest)
    with pytest.raises(DataError, match="can't fetch /nowhere/tokenizer/ranks"):
        dataset_tokenizer(DatasetConfig(str(cache), remote="/nowhere"), manifest)


def test_a_broken_checkpoint_is_no_run(tmp_path: Path) -> None:
    broken = tmp_path / "checkpoints" / "ba00000004"
    broken.mkdir(parents=True)
    with pytest.raises(RecipeError, match="is no checkpoint, and no run that has saved one"):
        find_checkpoint(tmp_path)
    (broken / ".metadata").touch()
    with pytest.raises(RecipeError, match=r"model\.yaml is missing"):
        read_contents(find_checkpoint(broken))


def test_biases_that_the_weights_lack_begin_at_nothing(base: SimpleNamespace, workshop: SimpleNamespace) -> None:
    begin = [f"initial_weights={base.imported}", *STANDING_STILL, "model.ffn_config.moe_bias_update_rate=0.001"]
    code, log = train(workshop, "biased", *begin, "max_duration=1ba")  # a second step may undo the first's
    assert code == [0], log
    assert "were trained with None, this run has 0.001" in log
    given, now = weights_of(base.imported), weights_of(workshop.root / "runs" / "biased")
    biases = {name for name in now if name.endswith("expert_bias")}
    assert len(biases) == 2
    assert 0 < max(now[name].abs().max() for name in biases) <= 0.002
    assert all(now[name].equal(given[name]) for name in given)
    assert now.keys() - biases == given.keys()
