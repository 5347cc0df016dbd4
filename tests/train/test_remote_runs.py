"""Training from a dataset that lies elsewhere: the same run, through a cache; and what is refused before it begins."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from train.cache import bytes_in_use, parse_size, size_in_words
from train.errors import RecipeError
from train.inputs import read_run

from metric_rows import rows
from processes import brickyard


@pytest.mark.parametrize(
    ("text", "size"),
    [("1b", 1), ("2kb", 2048), ("1.5mb", 1_572_864), ("200gb", 200 * 2**30), ("3 TB", 3 * 2**40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_sizes_in_words() -> None:
    assert [size_in_words(size) for size in (9, 10 * 2**10 - 1, 10 * 2**20 + 1, 200 * 2**30)] == [
        "9b",
        "10239b",
        "11mb",
        "200gb",
    ]


@pytest.mark.parametrize(
    ("path", "limit", "sentence"),
    [
        ("dataset/", "null", "expected another place than dataset.path"),
        ("cache", "much", "such as 200gb"),
        ("cache", "200", "such as 200gb"),
        ("cache", "0gb", "such as 200gb"),
        ("cache", "900kb", "expected 979kb at least, for the shards that are in use at once, found 900kb"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(
    write_run: Callable[..., Path], tmp_path: Path, path: str, limit: str, sentence: str
) -> None:
    recipe = write_run({"web": [1500] * 40, "code": [10]}, [{"at": "0tok", "weights": {"web": 0.9, "code": 0.1}}])
    overrides = [f"dataset.remote={tmp_path}/dataset", f"dataset.path={tmp_path}/{path}"]
    with pytest.raises(RecipeError, match=sentence):
        read_run(recipe, [*overrides, f"dataset.cache_limit={limit}"])


def test_a_limit_is_for_copies_alone(write_run: Callable[..., Path]) -> None:
    recipe = write_run({"web": [1500]}, [{"at": "0tok", "weights": {"web": 1}}])
    with pytest.raises(RecipeError, match=r"needs dataset\.remote: what lies in dataset\.path is the only copy"):
        read_run(recipe, ["dataset.cache_limit=1tb"])


def test_a_cache_for_the_shards_in_use_is_accepted(write_run: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_run({"web": [1500] * 40, "code": [10]}, [{"at": "0tok", "weights": {"web": 0.9, "code": 0.1}}])
    remote = [f"dataset.remote={tmp_path}/dataset", f"dataset.path={tmp_path}/cache"]
    _, manifest = read_run(recipe, [*remote, "dataset.cache_limit=2mb"])
    # Sixteen of the forty shards of one domain, the one of the other, and an entry in an index for each.
    assert bytes_in_use(manifest, ["web", "code"]) == 16 * 60_000 + 400 + 41 * 1024


def train(workshop: SimpleNamespace, name: str, *overrides: str) -> tuple[int | None, str]:
    """(exit code, what was said)."""
    log = workshop.root / f"{name}.log"
    common = ["max_duration=3ba", "eval_interval=3ba", "save_interval=3ba", "curriculum.anchors[1].at=384tok"]
    [code] = brickyard(["train", str(workshop.recipe), f"run_name={name}", *common, *overrides], log)
    return code, log.read_text()


def test_a_run_from_a_remote_is_the_run_from_here(workshop: SimpleNamespace) -> None:
    cache = workshop.root / "cache"
    remote = [f"dataset.remote={workshop.dataset}", f"dataset.path={cache}", "dataset.cache_limit=10mb"]
    code, said = train(workshop, "from-remote", *remote, "dataset.num_workers=2")
    assert code == 0, said
    assert f"fetching what {workshop.dataset} says of itself" in said
    assert train(workshop, "from-here")[0] == 0
    assert rows(workshop.root / "runs" / "from-remote") == rows(workshop.root / "runs" / "from-here")
    assert {path.suffix for path in cache.rglob("train/*")} == {".json", ".mds"}


def test_a_remote_that_lacks_a_shard_ends_the_run_with_one_sentence(workshop: SimpleNamespace) -> None:
    remote = workshop.root / "lacking"
    shutil.copytree(workshop.dataset, remote)
    for shard in (remote / "code" / "train").glob("*.mds"):
        shard.unlink()
    code, said = train(workshop, "lacking", f"dataset.remote={remote}", f"dataset.path={workshop.root / 'half'}")
    assert code == 2
    assert f"can't be fetched from {remote}/code/train: " in said
    assert "Traceback" not in said


def test_a_remote_that_is_not_there_is_refused_at_once(workshop: SimpleNamespace) -> None:
    code, said = train(workshop, "nowhere", "dataset.remote=/no/such/folder", f"dataset.path={workshop.root / 'none'}")
    assert code == 2
    assert "can't fetch /no/such/folder/manifest.json" in said
    assert "Traceback" not in said
