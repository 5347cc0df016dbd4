"""`brickyard plan --html`: one page that needs nothing else."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from data.page.figure import DOMAIN_COLOURS
from launch.cli import main
from train.curriculum.build import build_plan
from train.inputs import read_run

SHARDS = {"web": [50] * 40, "a<b": [30] * 20, "math": [7, 11]}
ANCHORS = [
    {"at": "0tok", "weights": {"web": 0.7, "a<b": 0.3}},
    {"at": "4000tok", "weights": {"web": 0.2, "a<b": 0.3, "math": 0.5}, "ramp": "cosine"},
    {"at": "6000tok", "weights": {"web": 1.0}},
    {"at": "9000tok", "weights": {"math": 1.0}},
]

WriteRun = Callable[..., Path]


@pytest.fixture
def page(write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["plan", str(write_run(SHARDS, ANCHORS)), "--html", str(tmp_path / "new" / "x.html")]) == 0
    assert capsys.readouterr().out == f"plan: {tmp_path / 'new' / 'x.html'}\n"
    return (tmp_path / "new" / "x.html").read_text()


def figures_of(page: str) -> dict[str, Any]:
    embedded = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert embedded
    return json.loads(embedded[1])


def text_of(page: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_it_says_the_plan(page: str) -> None:
    text = text_of(page)
    for said in (
        "A plan: 100 steps of 80 tokens.",
        "It begins with 70.0% web and 30.0% a<b and ends with 100.0% web.",
        "The run ends at 8K tokens, before the anchor at 9000tok takes over.",
        "all of it is on this machine",
        "From 4K to 6K tokens",
        "ramp: cosine",
        "global_train_batch_size: 8",
    ):
        assert said in text
    assert re.search(r"begun anew, in another order: math \d+ times\.", text)


def test_of_many_domains_the_largest_are_named(write_run: WriteRun, tmp_path: Path) -> None:
    first, last = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}, {"d": 0.9, "a": 0.1}
    anchors = [{"at": "0tok", "weights": first}, {"at": "10ba", "weights": last}]
    assert (
        main(["plan", str(write_run({name: [500] for name in "abcd"}, anchors)), "--html", f"{tmp_path}/x.html"]) == 0
    )
    said = "It begins with 40.0% a, 30.0% b, 20.0% c and others and ends with 90.0% d and 10.0% a."
    assert said in text_of((tmp_path / "x.html").read_text())


def test_the_plots_hold_the_plan(page: str, tmp_path: Path) -> None:
    plan = build_plan(*read_run(tmp_path / "recipe.yaml", []))
    figures = figures_of(page)
    assert list(figures) == ["schedule", "tokens", "epochs"]
    areas, anchors = figures["schedule"]["data"][:3], figures["schedule"]["data"][3:]
    assert {area["stackgroup"] for area in areas} == {"weights"}
    assert [anchor["x"][0] for anchor in anchors] == [4000, 6000]
    for number, area in enumerate(areas):
        assert area["line"]["color"] == DOMAIN_COLOURS[number]
        assert (area["x"][0], area["x"][-1]) == (0, 7990)
        for tokens, weight in zip(area["x"], area["y"], strict=True):
            assert weight == pytest.approx(100 * plan.weights(tokens // 10)[number], abs=0.01)
    assert all(sum(stack) == pytest.approx(100, abs=0.01) for stack in zip(*(area["y"] for area in areas), strict=True))
    for number, rows in enumerate((2000, 600, 18)):
        tokens, epochs = (figures[name]["data"][number] for name in ("tokens", "epochs"))
        delivered = [int(plan.delivered(round(x / 10))[number]) for x in tokens["x"]]
        assert tokens["y"] == [10 * count for count in delivered]
        assert epochs["y"] == pytest.approx([count / rows for count in delivered], rel=1e-4)


def test_it_loads_nothing_and_escapes_what_it_is_told(page: str) -> None:
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # plotly's own code names addresses
    assert "default-src 'none'" in outside
    assert not re.search(r"https?://", outside)
    assert all(link.startswith(("#", "data:")) for link in re.findall(r'(?:src|href)="([^"]*)"', outside))
    assert "a<b" not in re.sub(r"<(script).*?</\1>", "", page, flags=re.S)


def test_without_a_name_it_lies_in_the_runs_folder(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_run(SHARDS, ANCHORS))
    for words in (["--html", recipe], [recipe, "--html"], [recipe, "--html", "seed=3"]):
        assert main(["plan", *words]) == 0
        path = tmp_path / "runs" / "test" / "plan.html"
        assert capsys.readouterr().out == f"plan: {path}\n"
        path.unlink()


def test_what_can_not_be_written_is_said(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_run(SHARDS, ANCHORS))
    assert main(["plan", recipe, "--html", f"{recipe}/x.html"]) == 2
    assert f"can't write {recipe}/x.html" in capsys.readouterr().err
    assert main(["plan", recipe, "--html", "--json"]) == 2
    assert "leave out --json" in capsys.readouterr().err
