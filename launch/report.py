"""`brickyard report`: a page about a run."""

from __future__ import annotations

from pathlib import Path

from train.report import write_report


def report_command(run_dir: Path) -> int:
    """Write RUN_DIR/report.html and say where it is. Returns the exit code."""
    print(f"report: {write_report(run_dir)}")
    return 0
