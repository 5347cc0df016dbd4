"""RUN_DIR/report.html: one self-contained page about a run, made of nothing but the files in its directory."""

from __future__ import annotations

from pathlib import Path

from train.errors import RecipeError
from train.report.page import render
from train.report.reader import read_run_record
from train.run_directory import write_whole

FILE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Write RUN_DIR/report.html, whole or not at all. Returns its path.

    Raises:
        RecipeError: there is no such run, it has not finished a step yet, or its folder can't be written to.
    """
    page = render(read_run_record(run_dir))
    path = run_dir / FILE
    try:
        write_whole(path, page)
    except OSError as error:
        raise RecipeError(f"can't write {path}: {error.strerror}") from None
    return path
