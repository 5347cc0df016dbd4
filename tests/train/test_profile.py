"""The profile of a run: traces that load, with the seams of our code, and a table that adds up to the step."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from train.callbacks.metrics_file import iterate_rows
from train.step_clock import PARTS
from train.step_times import step_times, table

from processes import brickyard

SEAMS = {"attention", "router", "experts", "head", "embedding", "data wait", "forward", "backward", "checkpoint"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_is_traced_on_every_rank(workshop: SimpleNamespace, tmp_path: Path, ranks: int) -> None:
    keys = ["max_duration=5ba", "save_interval=3ba", "wandb.mode=disabled", "profile.steps=2", "profile.skip=2"]
    arguments = ["train", str(workshop.recipe), f"run_root={tmp_path}", f"parallel.expert_parallel={ranks}", *keys]
    assert brickyard(arguments, tmp_path / "log", ranks) == [0] * ranks
    folder = tmp_path / "test" / "profile"
    rows = [row for row in iterate_rows(tmp_path / "test" / "metrics.jsonl") if "throughput/seconds" in row]
    # Not the rest: before step 3 that holds the start of the profiler.
    seconds = [row["throughput/seconds"] - row["throughput/seconds/rest"] for row in rows]
    for row in rows:
        parts = {part: row[f"throughput/seconds/{part}"] for part in PARTS}
        assert sum(parts.values()) == pytest.approx(row["throughput/seconds"]) and min(parts.values()) >= 0
        assert parts["forward"] > 0 and parts["backward"] > 0 and (parts["all_to_all"] > 0) == (ranks > 1)
        assert row["moe/dropped_tokens"] == 0 and "throughput/mfu" not in row
    stall = rows[3]["throughput/seconds/checkpoint"]  # of the save after step 3
    assert stall > 0
    by_rank = json.loads((folder / "step.json").read_text())["milliseconds"]
    assert len(by_rank) == ranks
    for rank, times in enumerate(by_rank):
        events = traced(folder / f"rank{rank}.json.gz")
        assert {"ProfilerStep#1", "ProfilerStep#2"} <= {event["name"] for event in events}
        assert {event["name"] for event in events} >= SEAMS
        steps = [event["dur"] / 1e3 for event in events if event["name"].startswith("ProfilerStep#")]
        host = {row: time["host"] for row, time in times.items()}
        assert sum(host.values()) == pytest.approx(sum(steps) / 2, rel=0.01)
        assert min(host.values()) > -0.01  # rounding of what an event holds
        # Two clocks of the same two steps, whose edges differ by what a loaded machine does between them.
        assert 0.5 < 1e3 * (sum(seconds[2:4]) - stall) / 2 / sum(host.values()) < 1.5
        assert host["backward: experts"] > host["backward: router"] > 0
        assert host["optimizer"] > 0 and host["clipping"] > 0
        assert ("all-to-all" in host) == (ranks > 1)
    assert "all-to-all" in (folder / "step.txt").read_text() or ranks == 1
    assert "milliseconds of a step" in (tmp_path / "log").read_text()


def traced(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path) as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


def event(name: str, begin: int, end: int, cat: str = "cpu_op", tid: int = 1, **arguments: int) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "tid": tid, "ts": begin, "dur": end - begin, "args": arguments}


def test_a_backward_pass_on_a_thread_of_its_own_and_kernels_belong_to_what_launched_them() -> None:
    said = "user_annotation"
    events = [
        event("ProfilerStep#1", 0, 1000, said),
        event("forward", 100, 400, said),
        event("attention", 150, 250, said),
        event("aten::mm", 160, 240, **{"Sequence number": 7}),
        event("cudaLaunchKernel", 200, 210, "cuda_runtime", correlation=1),
        event("gemm", 5000, 5600, "kernel", tid=9, correlation=1),
        event("backward", 400, 900, said),
        event("autograd::engine::evaluate_function: MmBackward0", 500, 700, tid=2, **{"Sequence number": 7}),
        event("FSDP::post_backward_reduce (block)", 600, 650, said, tid=2),
        event("attention", 160, 240, "gpu_user_annotation", tid=9),
        event("aten::mm", 300, 350, tid=3),  # of a thread that has no part in the step
        event("aten::mm", 1100, 1200),  # after it
    ]
    times = step_times(events)
    assert times == {
        "forward: attention": {"host": 0.1, "device": 0.6},
        "forward": {"host": pytest.approx(0.2)},
        "backward: attention": {"host": pytest.approx(0.15)},
        "backward": {"host": pytest.approx(0.3)},
        "other": {"host": pytest.approx(0.2)},
        "FSDP reduce": {"host": pytest.approx(0.05)},
    }
    lines = table([times, times]).splitlines()
    assert lines[-1].split()[:5] == ["the", "step", "1.00", "1.00", "1.00"]
    assert "100.0%" in lines[-1]
