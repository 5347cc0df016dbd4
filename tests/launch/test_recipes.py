"""The recipes under yamls/: all of them are valid, and `brickyard plan` says of the large ones what their names and
comments promise, though their datasets are not there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark
import pytest
from made_up import made_up_manifest, write_dataset

from data.prepare.recipe import PrepareRecipe
from launch.cli import main
from model.flops import count_parameters
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe

YAMLS = Path(__file__).parents[2] / "yamls"
LARGE = YAMLS / "dbrx-132b" / "pretrain.yaml"
RUNGS = {"25m": 25e6, "100m": 100e6, "400m": 400e6, "1.6b": 1.6e9, "7b": 7e9}
ASKED = ("nodes", "gpus-per-node")  # of sbatch

WriteRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run and no dataset of this checkout counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def commands(recipe: Path, name: str = "plan") -> list[list[str]]:
    """The commands `brickyard NAME ...` that the recipe's first comment shows."""
    text = recipe.read_text().replace("\\\n#", "")
    words = [line.split() for line in re.findall(rf"^#   brickyard ({name} .*)$", text, re.MULTILINE)]
    return [[str(YAMLS.parent / word) if word.startswith("yamls/") else word for word in line] for line in words]


def planned(command: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted(YAMLS.glob("*/data.yaml")), ids=lambda path: path.parent.name)
def test_data_recipes_are_valid(path: Path) -> None:
    recipe = read_recipe(PrepareRecipe, RecipeSource(path))
    urls = [source.path for domain in recipe.domains.values() for source in domain.sources if "://" in source.path]
    [hadoop] = Path(pyspark.__file__).parent.glob("jars/hadoop-client-api-*.jar")
    if urls:  # then S3's file system must come, of the version of Spark's own Hadoop
        version = hadoop.stem.rpartition("-")[2]
        assert recipe.spark.conf["spark.jars.packages"] == f"org.apache.hadoop:hadoop-aws:{version}"


@pytest.mark.parametrize("path", [YAMLS / "demo" / "pretrain.yaml", LARGE, *(YAMLS / "ladder").glob("[0-9]*")])
def test_recipes_are_valid_and_fit_their_data(path: Path) -> None:
    recipe = read_recipe(Recipe, RecipeSource(path))
    data = read_recipe(PrepareRecipe, RecipeSource(path.parent / "data.yaml"))
    assert recipe.max_seq_len == data.max_seq_len
    assert {name for anchor in recipe.curriculum.anchors for name in anchor.weights} == {*data.domains}
    assert (recipe.dataset.remote or recipe.dataset.path) == data.output
    if data.tokenizer.vocab_size:
        assert recipe.model.vocab_size == data.tokenizer.vocab_size


def test_every_rung_is_tested() -> None:
    assert {path.stem for path in (YAMLS / "ladder").glob("*.yaml")} == {*RUNGS, "data"}


def test_132b_on_3072_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    whole, smaller = (planned(command, capsys) for command in commands(LARGE))
    assert (whole["parameters"], round(whole["active_parameters"] / 1e9, 1)) == (131_596_523_520, 36.5)
    assert whole["tokens_per_step"] == 6144 * 4096 and whole["tokens"] // whole["tokens_per_step"] == 476_838
    assert mesh(whole) == (3072, 6, 64, 8, 1) and mesh(smaller) == (512, 1, 64, 8, 6)
    epochs = {name: round(domain["epochs"], 2) for name, domain in whole["domains"].items()}
    assert epochs == {"web": 0.69, "code": 1.48, "math": 2.71, "chosen": 1.97}
    routers = 40 * 6144 * (1 - 16 / 512)  # 16 rows over 512 ranks: a whole one for rank 0
    for summary in (whole, smaller):
        memory = summary["memory"]
        assert memory["device"] == "gpu" and memory["bytes"] < memory["limit"] == 80 * 2**30
        assert memory["parts"]["parameters"] == 4 * (131_596_523_520 / 512 + routers)


@pytest.mark.parametrize("path", [LARGE, *(YAMLS / "ladder").glob("[0-9]*")], ids=lambda path: path.stem)
def test_a_dry_run_prints_the_job_of_as_many_ranks(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no dataset there, and no SLURM."""
    [launched] = commands(path, "launch")
    ranks = planned(commands(path)[0], capsys)["layout"]["ranks"]
    assert main(launched) == 0
    said = capsys.readouterr()
    nodes, gpus = (int(re.findall(rf"^#SBATCH --{name}=(\d+)$", said.out, re.MULTILINE)[0]) for name in ASKED)
    assert nodes * gpus == ranks and f"launch local -n {gpus} " in said.out
    assert said.err.startswith("launch: warning: there is no manifest in ") and said.err.count("\n") == 1
    assert main([*launched, "--set", "nodes=0"]) == 2
    assert capsys.readouterr().err == "brickyard launch: override nodes=0: expected 1 or more, found 0\n"


def mesh(summary: dict[str, Any]) -> tuple[int, ...]:
    return tuple(summary["layout"][name] for name in ("ranks", "replicate", "efsdp", "ep", "microbatches"))


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_as_large_as_its_name_and_follows_the_rules(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = YAMLS / "ladder" / f"{name}.yaml"
    recipe = read_recipe(Recipe, RecipeSource(path))
    [command] = commands(path)
    summary = planned(command, capsys)
    assert summary["active_parameters"] == pytest.approx(RUNGS[name], rel=0.05)
    assert summary["tokens"] == pytest.approx(20 * summary["active_parameters"], rel=0.02)
    compute = floating_point_operations(recipe)
    assert recipe.optimizer.lr == pytest.approx(0.3118 * compute**-0.125, rel=0.02)
    assert summary["tokens_per_step"] == pytest.approx(0.292 * compute**0.3271, rel=0.08)
    assert summary["layout"]["ranks"] == int(command[command.index("-n") + 1])
    assert summary["memory"]["bytes"] < summary["memory"]["limit"] == 80 * 2**30
    [warning] = summary["warnings"]
    assert warning.startswith("there is no manifest in /local/ladder: the sizes of the domains are those of")
    assert all(0 < domain["epochs"] < 4 for domain in summary["domains"].values())
    assert recipe.model.ffn_config.ffn_hidden_size == 1.75 * recipe.model.d_model


def floating_point_operations(recipe: Recipe) -> float:
    """DeepSeek LLM's count for the whole run: without embedding and head, attention as if it were not causal."""
    model, count = recipe.model, count_parameters(recipe.model)
    products = count.active - count.embedding - count.norms
    each = 6 * products + 12 * model.n_layers * model.d_model * recipe.max_seq_len
    return float(each) * recipe.end * recipe.max_seq_len


def test_132b_follows_the_rules_of_the_ladder() -> None:
    recipe = read_recipe(Recipe, RecipeSource(LARGE))
    compute = floating_point_operations(recipe)
    assert recipe.optimizer.lr == pytest.approx(0.3118 * compute**-0.125, rel=0.02)
    assert recipe.step_tokens == pytest.approx(0.292 * compute**0.3271, rel=0.15)


@pytest.mark.parametrize("rung", [LARGE, *(YAMLS / "ladder").glob("[0-9]*")], ids=lambda path: path.stem)
def test_the_curriculum_is_the_same_at_every_size(rung: Path) -> None:
    """At the same shares of the run."""
    shape = [
        (recipe.samples(anchor.at) / recipe.end, anchor.weights, anchor.ramp)
        for recipe in (read_recipe(Recipe, RecipeSource(path)) for path in (LARGE, rung))
        for anchor in recipe.curriculum.anchors
    ]
    half = len(shape) // 2
    for (place, *large), (same_place, *small) in zip(shape[:half], shape[half:], strict=True):
        assert place == pytest.approx(same_place, abs=1e-3) and large == small


def test_a_dataset_that_is_there_counts_and_not_what_was_planned(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_run({"web": [50] * 4}, [{"at": "0tok", "weights": {"web": 1.0}}]))
    more = ["dataset.planned_tokens={web: 8Ktok}"]
    assert planned(["plan", recipe, *more], capsys)["domains"]["web"]["rows"] == 200
    elsewhere = [*more, f"dataset.path={tmp_path / 'elsewhere'}"]
    summary = planned(["plan", recipe, *elsewhere], capsys)
    assert summary["domains"]["web"]["rows"] == 800 and summary["domains"]["web"]["epochs"] == 1.0
    assert summary["shards"]["bytes_to_download"] == 0  # there is no remote
    assert main(["train", recipe, *elsewhere]) == 2
    assert "no such folder" in capsys.readouterr().err
    write_dataset(tmp_path / "elsewhere", made_up_manifest({"web": [40]}, 10))
    assert planned(["plan", recipe, *elsewhere], capsys)["domains"]["web"]["rows"] == 40


def test_without_any_dataset_what_is_known_is_said(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_run({"web": [50]}, [{"at": "0tok", "weights": {"web": 1.0}}]))
    assert main(["plan", recipe, "-n", "2", "dataset.path=nowhere"]) == 2
    said = capsys.readouterr()
    assert "8K tokens in 100 steps of 80" in said.out and "2 ranks = 1 (replicate) x 2 (efsdp) x 1 (ep)" in said.out
    assert "active for a token" in said.out and "memory is highest in" in said.out
    assert "no such folder: nowhere; " in said.err and "dataset.planned_tokens" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("tokens", ["8T", "10ba", "0tok", "much"])
def test_planned_tokens_are_tokens(tokens: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(LARGE), f"dataset.planned_tokens.web={tokens}"]) == 2
    assert "planned_tokens.web" in capsys.readouterr().err
