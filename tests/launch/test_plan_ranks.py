"""What `brickyard plan` says of the ranks: how they are arranged, what they share, and what memory each needs."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli import main
from train.layout import Layout
from train.plan.ranks import grid, groups, listed, shortened

WriteRun = Callable[..., Path]
ANCHORS = [{"at": "0tok", "weights": {"web": 1.0}}]
FFN = {"moe_num_experts": 4, "moe_normalize_expert_weights": None}
MODEL = {"max_seq_len": 10, "vocab_size": 8192, "ffn_config": FFN}


@pytest.fixture
def recipe(write_run: WriteRun, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parallel = {"data_parallel_replicate": 2, "expert_parallel": 2}
    return str(write_run({"web": [500]}, ANCHORS, parallel=parallel, model=MODEL, device_train_microbatch_size=1))


def rows_of(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


@pytest.mark.parametrize("numbers", [(1, 1, 1), (1, 4, 2), (2, 2, 2), (3, 1, 4), (2, 5, 3)])
def test_every_rank_is_in_one_group_of_each_kind(numbers: tuple[int, int, int]) -> None:
    """And the groups of one kind are as many and as large as is said."""
    layout = Layout(*numbers)
    for group in groups(layout):
        assert group["size"] == len(group["first"]) > 1
        assert group["groups"] * group["size"] == layout.ranks
        assert group["first"][0] == 0 and group["first"] == sorted(set(group["first"]))
    sizes = {group["what"].split(",")[0]: group["size"] for group in groups(layout)}
    assert sizes.get("tokens and the experts they go to", 1) == layout.ep
    assert sizes.get("the weights of the same experts", 1) == layout.efsdp
    assert sizes.get("all other weights", 1) == layout.shard
    assert sizes.get("gradients of the same shard", 1) == layout.replicate


def test_the_mesh_is_drawn(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "-n", "8"]) == 0
    text = capsys.readouterr().out
    assert (
        "8 ranks = 2 (replicate) x 2 (efsdp) x 2 (ep)\n  in a step each has 1 microbatch of 1 sample, 10 tokens" in text
    )
    rows = rows_of(text)
    assert ["ranks by experts", "0-1", "2-3"] in rows
    assert ["replica 0, efsdp 0", "0", "1"] in rows and ["replica 1, efsdp 1", "6", "7"] in rows
    assert ["the weights of the same experts, gathered and reduced", "4", "2", "0, 2"] in rows
    assert ["gradients of the same shard, summed over replicas", "4", "2", "0, 4"] in rows


def test_the_default_is_the_fewest_ranks(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json"]) == 0
    layout = json.loads(capsys.readouterr().out)["layout"]
    assert [layout[name] for name in ("ranks", "replicate", "efsdp", "ep")] == [4, 2, 1, 2]
    assert (layout["microbatches"], layout["samples_per_rank"], layout["tokens_per_rank"]) == (2, 2, 20)
    assert main(["plan", recipe, "-n", "6"]) == 2
    said = capsys.readouterr().err
    assert "a multiple of the number of ranks (6), found 8; 6 and 12 would do" in said


def test_many_ranks_are_shortened() -> None:
    assert shortened(8, 8) == [*range(8)]
    assert shortened(9, 8) == [0, 1, 2, 3, 4, 5, None, 8]
    assert listed([*range(0, 512, 8)]) == "0, 8, 16, 24, 32, 40, ..., 504"
    assert listed([*range(8)]) == "0 to 7" and listed([0, 4]) == "0, 4"
    columns, rows = grid({"replicate": 2, "efsdp": 32, "ep": 16, "experts_per_rank": 1})
    assert columns[0] == "0" and columns[-2:] == ["...", "15"]
    assert [row for row, _ in rows][-2:] == ["...", "replica 1, efsdp 31"]
    assert rows[-1][1][-1] == "1,023" and rows[-2][1] == [""] * 8


def test_memory_that_will_not_do_is_warned_of(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json", "--memory", "1mb"]) == 0
    summary = json.loads(capsys.readouterr().out)
    memory = summary["memory"]
    assert memory["bytes"] == sum(memory["parts"].values()) and memory["limit"] == 2**20
    assert any("more than the 1024kb of --memory" in warning for warning in summary["warnings"])
    assert main(["plan", recipe, "--memory", "1tb"]) == 0
    text = capsys.readouterr().out
    assert "warning" not in text and "balanced routing assumed" in text
    sizes = [row for row in rows_of(text) if row[0] == "in all" and len(row) == 2]
    assert len(sizes) == 1
    assert main(["plan", recipe, "--memory", "much"]) == 2
    assert "--memory: expected a size such as 200gb" in capsys.readouterr().err


def test_the_page_says_the_same(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "-n", "8", "--html", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    for said in ("On which ranks?", "replica 1, efsdp 1", "How much memory does a rank need?", "AdamW: two fp32"):
        assert said in page
