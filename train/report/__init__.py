"""One self-contained page about a run, or several side by side, made of nothing but the files in their folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.errors import RecipeError
from train.report.compare import render_comparison
from train.report.page import render
from train.report.reader import read_run_record
from train.run_directory import write_whole

FILE, COMPARISON = "report.html", "comparison.html"


def write_report(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, whole or not at all. Returns its path: `out`, or else RUN_DIR/report.html of one run and
    comparison.html beside the first of several.

    Raises:
        RecipeError: there is no such run, it has not finished a step yet, or the page can't be written there.
    """
    page = render_runs(run_dirs)
    path = out or (run_dirs[0] / FILE if len(run_dirs) == 1 else run_dirs[0].resolve().parent / COMPARISON)
    try:
        write_whole(path, page)
    except OSError as error:
        raise RecipeError(f"can't write {path}: {error.strerror}") from None
    return path


def render_runs(run_dirs: Sequence[Path]) -> str:
    """The page of one run, or of several side by side."""
    records = [read_run_record(run_dir) for run_dir in run_dirs]
    return render(records[0]) if len(records) == 1 else render_comparison(records)
