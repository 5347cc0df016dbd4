"""What a plan comes to, held against the plan's own samples, one by one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.manifest import folder_of
from data.mixture.plan import Plan
from train.curriculum.build import build_plan
from train.inputs import read_run
from train.places import Steps
from train.plan.shards import is_here
from train.plan.summary import summarise

SEQ_LEN, BATCH = 10, 8
SHARDS = {"web": [50] * 40, "code": [30] * 20, "math": [7, 11]}
ANCHORS = [
    {"at": "0tok", "weights": {"web": 0.7, "code": 0.3}},
    {"at": "4000tok", "weights": {"web": 0.2, "code": 0.3, "math": 0.5}, "ramp": "cosine"},
    {"at": "6000tok", "weights": {"web": 0.9, "code": 0.05, "math": 0.05}},
]

WriteRun = Callable[..., Path]


def summary_of(path: Path, *overrides: str) -> tuple[dict[str, Any], Plan]:
    recipe, manifest = read_run(path, overrides)
    plan = build_plan(recipe, manifest)
    return summarise(recipe, manifest, plan, 1), plan


def test_totals_and_spans_are_the_samples_counted(write_run: WriteRun) -> None:
    summary, plan = summary_of(write_run(SHARDS, ANCHORS))
    drawn = plan[0:800]["domain"]
    assert [span["from_tokens"] for span in summary["spans"]] == [0, 4000, 6000]
    assert [span["to_tokens"] for span in summary["spans"]] == [4000, 6000, 8000]
    for number, (name, domain) in enumerate(summary["domains"].items()):
        count, rows = np.count_nonzero(drawn == number), sum(SHARDS[name])
        assert (domain["samples"], domain["tokens"], domain["rows"]) == (count, count * SEQ_LEN, rows)
        assert (domain["share"], domain["epochs"]) == (count / 800, count / rows)
        for span in summary["spans"]:
            first, last = span["from_tokens"] // SEQ_LEN, span["to_tokens"] // SEQ_LEN
            part = span["domains"][name]
            assert part["tokens"] == np.count_nonzero(drawn[first:last] == number) * SEQ_LEN
            assert part["epochs_from"] == np.count_nonzero(drawn[:first] == number) / rows
            assert part["epochs_to"] == np.count_nonzero(drawn[:last] == number) / rows
    weights = summary["spans"][0]["domains"]["math"]
    assert weights["weight_from"] == 0 and 0.49 < weights["weight_to"] < 0.5  # a sample before the anchor
    assert summary["anchors"][2]["weights"] == pytest.approx({"web": 0.9, "code": 0.05, "math": 0.05})
    assert [(anchor["tokens"], anchor["step"], anchor["ramp"]) for anchor in summary["anchors"]] == [
        (0, 1, "step"),
        (4000, 51, "cosine"),
        (6000, 76, "step"),
    ]


def test_steps_of_a_run_whose_global_batch_has_changed() -> None:
    """Ten steps of 8 samples, and from there on 12 a step."""
    steps = Steps(10, 80, 12)
    assert [steps.reading(sample) for sample in (79, 80, 91, 92)] == [None, 11, 11, 12]
    assert [steps.until(end) for end in (80, 81, 92, 93)] == [10, 11, 11, 12]
    same = Steps(10, 80, 8)
    assert [same.reading(sample) for sample in (0, 79, 80)] == [1, 10, 11] and same.until(88) == 11


def test_every_repeat_is_where_the_plan_begins_an_epoch(write_run: WriteRun) -> None:
    summary, plan = summary_of(write_run(SHARDS, ANCHORS, max_duration="300ba"))
    samples = plan[0:2400]
    for number, domain in enumerate(summary["domains"].values()):
        epochs = samples["epoch"][samples["domain"] == number]
        begun = {
            epoch: int(samples["sample"][(samples["domain"] == number) & (samples["epoch"] == epoch)][0])
            for epoch in range(1, epochs.max() + 1)
        }
        assert domain["repeats"]["count"] == len(begun)
        for place in domain["repeats"]["begin"]:
            assert place["sample"] == begun[place["epoch"]]
            assert (place["tokens"], place["step"]) == (place["sample"] * SEQ_LEN, place["sample"] // BATCH + 1)
    assert summary["domains"]["web"]["repeats"] == {"count": 0, "begin": []}
    math = summary["domains"]["math"]["repeats"]
    assert math["count"] > 5
    assert [place["epoch"] for place in math["begin"]] == [1, 2, 3, math["count"]]


def test_a_domain_read_to_its_last_row_has_not_begun_anew(write_run: WriteRun) -> None:
    path = write_run({"web": [400], "code": [400]}, [{"at": "0tok", "weights": {"web": 0.5, "code": 0.5}}])
    for steps, count in ((100, 0), (101, 1)):
        summary, _ = summary_of(path, f"max_duration={steps}ba")
        assert {domain["repeats"]["count"] for domain in summary["domains"].values()} == {count}


def test_the_shards_that_are_read(write_run: WriteRun) -> None:
    summary, plan = summary_of(write_run(SHARDS, ANCHORS, max_duration="60ba"))
    samples = plan[0:480]
    for number, (name, part) in enumerate(summary["shards"]["domains"].items()):
        row = samples["row"][(samples["domain"] == number)]
        shards = set(np.searchsorted(np.cumsum(SHARDS[name]), row, side="right").tolist())
        touched = plan.orders[number].shards_touched(len(row))
        assert shards <= set(touched.tolist())
        assert len(touched) < len(shards) + 8  # a group of shards is shuffled together, and counts as a whole
        assert part["shards"] == len(touched)
        assert part["of_shards"] == len(SHARDS[name])
        assert part["bytes"] == sum(4 * SEQ_LEN * SHARDS[name][shard] for shard in touched)
    assert summary["shards"]["domains"]["web"]["shards"] < 40  # not the whole of it
    assert summary["shards"]["heldout"]["shards"] == 3
    parts = [*summary["shards"]["domains"].values(), summary["shards"]["heldout"]]
    assert summary["shards"]["bytes"] == sum(part["bytes"] for part in parts)
    assert summary["shards"]["bytes_to_download"] == 0


def test_what_the_cache_lacks_has_to_be_downloaded(write_run: WriteRun, tmp_path: Path) -> None:
    path, cache = write_run(SHARDS, ANCHORS), tmp_path / "cache"
    remote = f"dataset.remote={tmp_path / 'dataset'}"
    empty, plan = summary_of(path, remote, f"dataset.path={cache}")
    assert empty["shards"]["bytes_to_download"] == empty["shards"]["bytes"]
    read = plan.orders[0].shards_touched(empty["domains"]["web"]["samples"]).tolist()
    unread = sorted(set(range(40)) - set(read))
    for shard in (*read[:3], unread[0]):
        name = Path(folder_of("web", "train")) / f"shard.{shard:05}.mds"
        shutil.copy(tmp_path / "dataset" / name, cache / name)
    begun, _ = summary_of(path, remote, f"dataset.path={cache}")
    before, after = empty["shards"], begun["shards"]
    there = 3 * 50 * SEQ_LEN * 4
    assert before["bytes_to_download"] - after["bytes_to_download"] == there
    before["domains"]["web"]["bytes_to_download"] -= there
    assert (after["domains"], after["heldout"]) == (before["domains"], before["heldout"])


def test_a_shard_that_was_unpacked_is_here() -> None:
    assert is_here("shard.00000.mds.zstd", {"shard.00000.mds"})
    assert not is_here("shard.00000.mds.zstd", {"shard.00001.mds", "shard.00000"})
    assert not is_here("shard.00000.mds", {"shard.00000"})


def test_a_cache_that_is_too_small_for_what_repeats_is_said(write_run: WriteRun, tmp_path: Path) -> None:
    path = write_run({"web": [5000] * 40, "math": [5000] * 2}, [{"at": "0tok", "weights": {"web": 0.5, "math": 0.5}}])
    cached = [f"dataset.remote={tmp_path / 'dataset'}", f"dataset.path={tmp_path / 'cache'}"]
    for steps, limit, said in ((50_000, "6mb", 1), (100, "6mb", 0), (50_000, "60mb", 0)):
        summary, _ = summary_of(path, *cached, f"max_duration={steps}ba", f"dataset.cache_limit={limit}")
        assert len(summary["warnings"]) == said
        assert all("those of math may be downloaded again" in warning for warning in summary["warnings"])


def test_what_runs_out_is_said(write_run: WriteRun) -> None:
    limits = {"anchors": ANCHORS, "max_epochs": {"math": 3}, "when_used_up": "reallocate"}
    summary, plan = summary_of(write_run(SHARDS, ANCHORS, curriculum=limits))
    (gone,) = summary["used_up"]
    last = plan[0:800]["sample"][plan[0:800]["domain"] == plan.domains.index("math")][-1]
    assert (gone["domain"], gone["max_epochs"]) == ("math", 3)
    assert last < gone["sample"] <= last + BATCH
    assert gone["sample"] * SEQ_LEN in [span["from_tokens"] for span in summary["spans"]]
    (warning,) = summary["warnings"]
    assert "math is used up in step" in warning and "after 3 epochs" in warning


@pytest.mark.parametrize(
    ("anchor", "said"),
    [
        ({"at": "9000tok", "ramp": "linear"}, "the run ends at 8K tokens, before the anchor at 9000tok takes over"),
        ({"at": "8000tok", "ramp": "step"}, "the run ends at 8K tokens, before the anchor at 8000tok takes over"),
        ({"at": "8000tok", "ramp": "linear"}, None),
        ({"at": "7990tok", "ramp": "step"}, None),
    ],
)
def test_an_anchor_that_is_never_reached_is_said(write_run: WriteRun, anchor: dict[str, str], said: str | None) -> None:
    path = write_run(SHARDS, [*ANCHORS, {**anchor, "weights": {"code": 1.0}}])
    assert summary_of(path)[0]["warnings"] == ([said] if said else [])


@pytest.mark.parametrize(
    ("ffn", "said"), [({}, True), ({"moe_top_k": 2}, False), ({"moe_normalize_expert_weights": None}, False)]
)
def test_routers_that_have_nothing_to_learn_from_are_said(write_run: WriteRun, ffn: dict[str, Any], said: bool) -> None:
    """One expert, whose weight is divided by itself."""
    model = {"max_seq_len": 10, "vocab_size": 8192, "ffn_config": {"moe_num_experts": 4, **ffn}}
    found = summary_of(write_run(SHARDS, ANCHORS, model=model))[0]["warnings"]
    assert any("the routers learn from balancing alone" in warning for warning in found) == said


def test_domains_that_are_not_read_are_said(write_run: WriteRun) -> None:
    summary, _ = summary_of(write_run({**SHARDS, "books": [5]}, ANCHORS))
    assert summary["unread_domains"] == ["books"]


@pytest.mark.parametrize("tokens", ["20Btok", "12Ttok"])
def test_twelve_trillion_tokens_of_twenty_domains_in_ten_thousand_shards(write_run: WriteRun, tokens: str) -> None:
    names = [f"domain-{number}" for number in range(20)]
    shards = {name: [10_000 + 500 * number] * 500 for number, name in enumerate(names)}
    first = {name: (1 + number) / 210 for number, name in enumerate(names)}
    last = dict(zip(names, reversed(first.values()), strict=True))
    anchors = [{"at": "0tok", "weights": first}, {"at": "1dur", "weights": last, "ramp": "cosine"}]
    path = write_run(shards, anchors, max_seq_len=4096, max_duration=tokens, global_train_batch_size=2048)
    summary, plan = summary_of(path)
    assert sum(domain["samples"] for domain in summary["domains"].values()) == summary["samples"]
    for number, domain in enumerate(summary["domains"].values()):
        assert domain["share"] == pytest.approx(1 / 20, abs=1e-3)
        for place in domain["repeats"]["begin"]:
            sample = plan.read([place["sample"]])[0]
            assert (sample["domain"], sample["epoch"]) == (number, place["epoch"])
            assert plan.delivered(place["sample"])[number] == place["epoch"] * domain["rows"]
