"""metrics.jsonl holds each step once, whatever happened to the process that wrote it."""

import json
from pathlib import Path

import pytest

from train.callbacks.metrics_file import MetricsFile, iterate_rows
from train.errors import RecipeError


def test_rows_after_the_checkpoint_are_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.open_after(0)
    for batch in (1, 2, 3):
        file.write({"batch": batch, "loss": 1.0})
    file.close()
    with path.open("a") as torn:
        torn.write('{"batch": 4, "lo')  # killed in the middle of a line
    assert [row["batch"] for row in iterate_rows(path)] == [1, 2, 3]
    again = MetricsFile(path)
    again.open_after(2)
    again.write({"batch": 3, "loss": 0.5})
    again.close()
    assert [(row["batch"], row["loss"]) for row in iterate_rows(path)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_damaged_line_before_the_last_is_said(tmp_path: Path) -> None:
    """What follows it would otherwise be forgotten without a word."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"batch": 1}\n{"bat\n{"batch": 3}\n')
    with pytest.raises(RecipeError, match=r"metrics\.jsonl:2: this line is damaged"):
        MetricsFile(path).open_after(2)
    with pytest.raises(RecipeError, match=r"metrics\.jsonl:2: this line is damaged"):
        [*iterate_rows(path)]
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize(("batch", "kept"), [(0, 0), (1, 1), (2, 3), (5, 4)])
def test_rows_are_looked_for_from_the_end(tmp_path: Path, batch: int, kept: int) -> None:
    """A step's evaluation has its batch too; what lies before the rows to keep is not read."""
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"batch": number, "x": "y" * 5000}) + "\n" for number in (1, 2, 2, 3)]
    path.write_text("".join(lines))
    file = MetricsFile(path)
    file.open_after(batch)
    file.close()
    assert path.read_text() == "".join(lines[:kept])


def test_what_is_not_a_number_is_null(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.open_after(0)
    file.write({"batch": 1, "loss": float("nan"), "gradient_norm": float("inf")})
    file.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=lambda name: 1 / 0) == {"batch": 1, "loss": None, "gradient_norm": None}
