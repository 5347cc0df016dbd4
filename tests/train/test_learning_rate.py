"""The learning rate at the steps that matter."""

import itertools
import math

import pytest

from train.learning_rate import Schedule
from train.learning_rate import learning_rate as rate_after
from train.recipe import CurriculumConfig, DatasetConfig, OptimizerConfig, Recipe, SchedulerConfig

BATCH = 4


def learning_rate(recipe: Recipe, step: int) -> float:
    return rate_after(recipe, step * BATCH)


def recipe(
    name: str,
    warmup: str = "10ba",
    final: float = 0.1,
    decay: str = "0.1dur",
    shape: str = "linear",
    max_duration: str = "110ba",
) -> Recipe:
    return Recipe(
        run_name="x",
        max_duration=max_duration,
        global_train_batch_size=BATCH,
        max_seq_len=8,
        dataset=DatasetConfig("x"),
        curriculum=CurriculumConfig([]),
        optimizer=OptimizerConfig(lr=2.0),
        scheduler=SchedulerConfig(name, warmup, final, decay, shape),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "wsd"])
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


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", 0.5), ("cosine", 0.5), ("one_minus_sqrt", 1 - math.sqrt(0.5))]
)
def test_warmup_stable_decay(shape: str, middle: float) -> None:
    run = recipe("wsd", decay="320tok", shape=shape)  # 10 steps of 4 samples of 8 tokens
    rates = [learning_rate(run, step) for step in range(110)]
    assert rates[9:100] == [2.0] * 91  # the 10 steps before them warm up, the 10 after them decay
    assert all(after < before for before, after in itertools.pairwise(rates[99:]))
    assert rates[104] == pytest.approx(0.2 + 1.8 * middle)
    assert rates[109] == pytest.approx(0.2) and learning_rate(run, 10_000) == pytest.approx(0.2)


def test_a_stable_phase_does_not_know_where_the_run_ends() -> None:
    short, long = recipe("wsd", decay="10ba"), recipe("wsd", decay="10ba", max_duration="1000ba")
    assert [learning_rate(short, step) for step in range(100)] == [learning_rate(long, step) for step in range(100)]
    assert learning_rate(short, 100) < learning_rate(long, 100) == 2.0


def test_another_global_batch_in_the_middle_of_a_warmup_stays_below_the_peak() -> None:
    wide = recipe("wsd", warmup="40sp", max_duration="440sp")
    wide.global_train_batch_size = 8
    assert max(rate_after(wide, samples) for samples in range(0, 440, 4)) == 2.0


def test_a_schedule_says_what_comes_when() -> None:
    assert [*Schedule.of(recipe("wsd", final=0)).parts()] == [("up to 2", 10), ("at 2", 99), ("linear to 0", 110)]
    assert [*Schedule.of(recipe("cosine")).parts()] == [("up to 2", 10), ("cosine to 0.2", 110)]
    assert [*Schedule.of(recipe("constant", warmup="0ba")).parts()] == [("at 2", 110)]


def test_a_decay_that_does_not_fit_is_refused() -> None:
    assert not [*recipe("wsd", warmup="99ba", decay="11ba").problems()]
    [(key, sentence)] = recipe("wsd", warmup="99ba", decay="12ba").problems()
    assert key == "scheduler.decay" and sentence.endswith("the run (110ba) after its warmup (99ba), found 12ba")
