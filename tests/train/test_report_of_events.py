"""What the report says of a run's starts, spikes and saves, and marks on its curves."""

import json
from pathlib import Path
from typing import Any

from test_report import STEP_TOKENS, Page, lines_of, write_run

SPIKE = {"loss": 9.5, "gradient_norm": 3.0, "expected": 6.25, "most": 7.0, "domains": ["web"]}
EVENTS: list[dict[str, Any]] = [
    {"event": "start", "step": 0, "ranks": 2},
    {"event": "saved", "step": 10, "seconds": 1.5},
    {"event": "skip_batch", "step": 12, "first": 1100, "end": 1200, **SPIKE},
    {"event": "start", "step": 10, "ranks": 1},
    {"event": "recipe changed", "step": 10, "changes": ["max_duration: '10ba' -> '20ba'"]},
    {"event": "rollback", "step": 15, "back_to": 10, "first": 1400, "end": 1600, **SPIKE},
    {"event": "saved", "step": 20, "seconds": 2.5},
]


def write_events(folder: Path, events: list[dict[str, Any]]) -> Path:
    rows = [{"time": f"2026-11-23T15:00:{second:02}+00:00", **event} for second, event in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_happened_is_listed_the_newest_first(tmp_path: Path) -> None:
    page = Page(write_events(write_run(tmp_path / "demo"), EVENTS))
    assert "It was started 2 times, on 2, then 1 rank. 2 steps stood out by a loss. It was saved 2 times" in page.text
    assert "the last time after step 20; a save was on the disk 2.0 s after it began (median)" in page.text
    listed = [row for row in page.rows if row and row[0].startswith("2026-")]
    words = "the loss was 9.500, where 6.250 was expected; it moved most in web"
    assert listed == [
        ["2026-11-23 15:00:05", "15", f"{words}; back to step 10, without samples 1,400 to 1,599"],
        ["2026-11-23 15:00:04", "10", "the recipe changed: max_duration: '10ba' -> '20ba'"],
        ["2026-11-23 15:00:03", "10", "went on with 1 rank"],
        ["2026-11-23 15:00:02", "12", f"{words}; its update was dropped"],
        ["2026-11-23 15:00:00", "0", "began with 2 ranks"],
    ]


def test_marks_stand_where_it_happened(tmp_path: Path) -> None:
    page = Page(write_events(write_run(tmp_path / "demo"), EVENTS))
    for figure in ("training-loss", "throughput"):
        marks = [trace for trace in page.figures[figure]["data"] if trace.get("yaxis") == "y2"]
        upright, points = marks[:2], marks[2:]
        assert [trace["x"] for trace in upright] == [
            [10_000, 10_000, None],
            [12_000, 12_000, None, 15_000, 15_000, None],
        ]
        assert [(trace["name"], trace["x"]) for trace in points] == [
            ("went on", [10 * STEP_TOKENS]),
            ("spike", [12_000, 15_000]),
            ("saved", [10_000, 20_000]),
        ]
    assert lines_of(page.figures["training-loss"], "saved")[0]["text"] == [
        "step 10: saved in 1.5 s", "step 20: saved in 2.5 s",
    ]  # fmt: skip
    assert (
        "Marks: dotted, where the run went on; red, where a loss stood out; triangles, where it was saved." in page.text
    )


def test_a_loss_that_was_no_number_and_an_event_of_another_version(tmp_path: Path) -> None:
    events = [{"event": "stop", "step": 7, "first": 0, "end": 1, **SPIKE, "loss": "nan"}, {"event": "<b>", "step": 7}]
    page = Page(write_events(write_run(tmp_path / "demo"), events))
    listed = [row[2] for row in page.rows if row and row[0].startswith("2026-")]
    assert listed == ["<b>", "the loss was nan, where 6.250 was expected; it moved most in web; the run ended"]


def test_a_run_without_events(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo"))
    assert "Nothing is written down of this run beside its steps." in page.text
    assert not [t for t in page.figures["training-loss"]["data"] if t.get("yaxis")] and "Marks:" not in page.text


def test_time_by_part_and_what_is_dropped(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path / "demo", **{"moe/dropped_tokens": 2, "throughput/mfu": 0.4}))
    assert ["backward", "200.0 ms", "40.0%"] in page.rows and ["the step", "500.0 ms", "100.0%"] in page.rows
    assert not [row for row in page.rows if row and row[0].startswith("all-to-all")]  # took none
    assert "40 tokens were dropped, which must not be" in page.text
    assert "That is 40.0% of what the devices could do (MFU)." in page.text
    assert page.figures["mfu"]["data"][-1]["y"] == [40] * 20
    areas = page.figures["step-parts"]["data"]
    assert [sum(area["y"][n] for area in areas) for n in (0, 19)] == [100, 100]


def test_epochs_are_those_of_the_rows(tmp_path: Path) -> None:
    """A dataset that has grown had shorter epochs before; its size today does not say how often text came."""
    page = Page(write_run(tmp_path / "demo", **{"mixture/epochs/web": 4.0}))
    assert ["web", "10,000", "10,000", "4.000"] in page.rows
