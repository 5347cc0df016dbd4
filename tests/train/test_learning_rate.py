"""The learning rate at the steps that matter."""

import pytest

from train.learning_rate import learning_rate as rate_after
from train.recipe import CurriculumConfig, DatasetConfig, OptimizerConfig, Recipe, SchedulerConfig

BATCH = 4


def learning_rate(recipe: Recipe, step: int) -> float:
    return rate_after(recipe, step * BATCH)


def recipe(name: str, warmup: str = "10ba", final: float = 0.1) -> Recipe:
    return Recipe(
        run_name="x",
        max_duration="110ba",
        global_train_batch_size=BATCH,
        max_seq_len=8,
        dataset=DatasetConfig("x"),
        curriculum=CurriculumConfig([]),
        optimizer=OptimizerConfig(lr=2.0),
        scheduler=SchedulerConfig(name, warmup, final),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_warmup_rises_in_equal_steps_to_the_peak(name: str) -> None:
    rates = [learning_rate(recipe(name), step) for step in range(11)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == pytest.approx(2.0)


def test_decay_ends_at_its_share_of_the_peak() -> None:
    assert learning_rate(recipe("cosine"), 109) == pytest.approx(0.2)
    assert learning_rate(recipe("linear"), 109) == pytest.approx(0.2)
    assert learning_rate(recipe("constant"), 109) == 2.0
    middle = 10 + 99 // 2
    assert learning_rate(recipe("linear"), middle) == pytest.approx(2 * (1 - 0.9 * 49 / 99))
    assert learning_rate(recipe("cosine"), 35) > learning_rate(recipe("linear"), 35)


def test_without_warmup_and_past_the_end() -> None:
    assert learning_rate(recipe("cosine", warmup="0ba"), 0) == pytest.approx(2.0)
    assert learning_rate(recipe("cosine"), 10_000) == pytest.approx(0.2)


def test_warmup_in_tokens() -> None:
    assert learning_rate(recipe("cosine", warmup="320tok"), 4) == pytest.approx(1.0)


def test_another_global_batch_goes_on_at_the_rate_that_its_samples_have_come_to() -> None:
    wide, narrow = recipe("cosine", warmup="40sp"), recipe("cosine", warmup="40sp")
    wide.max_duration = narrow.max_duration = "440sp"
    wide.global_train_batch_size = 8
    assert rate_after(wide, 200) == pytest.approx(rate_after(narrow, 200), rel=0.02)
