"""How ranks are arranged: every layout that is accepted is whole, and every refusal names what would do."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cli import main
from model.config import AttentionImplementation, ExpertsImplementation, ModelConfig
from model.ffn_config import FFNConfig
from train.curriculum.config import AnchorConfig, CurriculumConfig
from train.errors import RecipeError
from train.inputs import read_run
from train.layout import Layout, fewest_ranks, rank_problems
from train.machine import machine_problems
from train.recipe import DatasetConfig, ParallelConfig, Recipe
from train.schema import value_problems

WriteRun = Callable[..., Path]
RECIPE = Recipe(
    "x", "10ba", 24, 16, DatasetConfig("x"), CurriculumConfig([AnchorConfig(at="0tok", weights={"web": 1.0})])
)  # fmt: skip
ANCHORS = [{"at": "0tok", "weights": {"web": 1.0}}]


def recipes() -> Iterator[tuple[Recipe, int]]:
    """Many, most of which can't be."""
    counts = itertools.product(
        (1, 2, 3, 4, 6, 8, 12), (None, 2, 3, 4, 8), (1, 2, 3), (1, 2, 3, 4, 8), (12, 24), (None, 1, 2)
    )
    for ranks, shard, replicate, ep, batch, micro in counts:
        parallel = ParallelConfig(shard, replicate, ep)
        model = ModelConfig(ffn_config=FFNConfig(moe_num_experts=12))
        yield (
            replace(
                RECIPE,
                parallel=parallel,
                model=model,
                global_train_batch_size=batch,
                device_train_microbatch_size=micro,
            ),
            ranks,
        )


def problems_of(recipe: Recipe, ranks: int) -> list[tuple[str, str]]:
    return [*value_problems(recipe), *rank_problems(recipe, ranks)]


def can_be(recipe: Recipe, ranks: int) -> bool:
    """Said once more, the other way round: whether samples, ranks and experts can all be dealt out."""
    parallel, micro = recipe.parallel, recipe.device_train_microbatch_size
    shards = [parallel.data_parallel_shard] if parallel.data_parallel_shard else range(1, ranks + 1)
    whole = [n for n in shards if n * parallel.data_parallel_replicate == ranks and n % parallel.expert_parallel == 0]
    samples = recipe.global_train_batch_size / ranks
    dealt = samples.is_integer() and (micro is None or (samples / micro).is_integer())
    return bool(whole) and dealt and 12 % parallel.expert_parallel == 0


def test_what_is_accepted_is_whole_and_nothing_else_is_accepted() -> None:
    accepted = 0
    for recipe, ranks in recipes():
        problems = problems_of(recipe, ranks)
        assert (not problems) == can_be(recipe, ranks), (recipe.parallel, ranks, problems)
        if problems:
            assert all("\n" not in sentence and "expected" in sentence for _, sentence in problems)
            continue
        layout = Layout.of(recipe, ranks)
        assert layout.replicate * layout.efsdp * layout.ep == layout.ranks == ranks
        assert layout.ep == recipe.parallel.expert_parallel
        assert layout.shard == (recipe.parallel.data_parallel_shard or layout.shard)
        accepted += 1
    assert accepted > 200


def test_what_a_refusal_says_would_do_does() -> None:
    followed = 0
    for recipe, ranks in recipes():
        for key, sentence in rank_problems(recipe, ranks):
            for value in map(int, re.findall(r"\d+", sentence.partition("; ")[2].partition(" would do")[0])):
                better = with_value(recipe, key, value)
                same = [other for other, _ in problems_of(better, ranks) if other == key]
                assert not same, (recipe.parallel, ranks, key, sentence)
                followed += 1
    assert followed > 1000


def with_value(recipe: Recipe, key: str, value: int) -> Recipe:
    group, _, name = key.rpartition(".")
    return replace(recipe, **({group: replace(recipe.parallel, **{name: value})} if group else {name: value}))


def test_the_fewest_ranks() -> None:
    counts = [fewest_ranks(replace(RECIPE, parallel=ParallelConfig(*numbers))) for numbers in (
        (None, 1, 1), (None, 2, 1), (None, 2, 4), (8, 2, 4)
    )]  # fmt: skip
    assert counts == [1, 2, 8, 16]


def test_a_recipe_for_many_ranks_is_planned_on_one(write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    path = write_run({"web": [500]}, ANCHORS, parallel={"data_parallel_shard": 4})
    read_run(path, [])
    read_run(path, ["parallel.data_parallel_replicate=2"], 8)
    with pytest.raises(RecipeError, match=r"parallel.data_parallel_shard: expected 2, .* \(1 x 4 is not 2\)"):
        read_run(path, [], 2)
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(RecipeError, match="expected 8, for"):
        read_run(path, [])


@pytest.mark.parametrize("command", ["train", "launch local -n 2"])
def test_what_is_trained_is_held_against_its_ranks(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")  # and put back after the launcher has set them
    path = write_run({"web": [500]}, ANCHORS, parallel={"data_parallel_shard": 4})
    assert main([*command.split(), str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "parallel.data_parallel_shard: expected" in said


def test_too_many_token_expert_pairs_for_megablocks() -> None:
    """A rank's microbatch of 2 samples would have 2^31 elements of pairs."""
    model = ModelConfig(
        d_model=4096, ffn_config=FFNConfig(moe_num_experts=16, moe_top_k=8), experts=ExpertsImplementation.megablocks
    )
    large = replace(RECIPE, model=model, max_seq_len=2**15, device_train_microbatch_size=2)
    [(key, sentence)] = rank_problems(large, 1)
    assert key == "device_train_microbatch_size" and "at most 1 with megablocks" in sentence
    small = replace(large, device_train_microbatch_size=1)
    assert not [*rank_problems(small, 1)]
    [(key, _)] = rank_problems(replace(small, device_eval_batch_size=2), 1)
    assert key == "device_eval_batch_size"
    by_itself = replace(large, model=replace(model, experts=ExpertsImplementation.auto))
    assert [key for key, _ in rank_problems(by_itself, 1)] == ["device_train_microbatch_size"]
    assert not [*rank_problems(replace(large, model=replace(model, experts=ExpertsImplementation.torch)), 1)]


def test_what_a_machine_without_a_gpu_or_a_compiler_can_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cases = {
        "precision": replace(RECIPE, precision="bf16"),
        "model.experts": replace(RECIPE, model=ModelConfig(experts=ExpertsImplementation.megablocks)),
    }
    for key, recipe in cases.items():
        [(found, sentence)] = machine_problems(recipe)
        assert found == key and "needs a GPU, and there is none; expected " in sentence
    compiled = replace(RECIPE, parallel=ParallelConfig(compile=True))
    monkeypatch.setenv("CXX", "no-such-compiler")
    [(key, sentence)] = machine_problems(compiled)
    assert key == "parallel.compile" and "C++ compiler, and there is no no-such-compiler here" in sentence
    monkeypatch.setenv("CXX", "true")
    assert not [*machine_problems(compiled)]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    for recipe in cases.values():
        assert not [*machine_problems(recipe)]
    flash = replace(
        cases["precision"], model=ModelConfig(attn_implementation=AttentionImplementation.flash_attention_2)
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    [(key, _)] = machine_problems(flash)
    assert key == "model.attn_implementation"
