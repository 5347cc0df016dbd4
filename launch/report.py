"""`brickyard report`: a page about a run, or several, as a file or served while they go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from train.report import write_report
from train.report.live import Server
from train.report.reader import check_is_folder


def report_command(run_dirs: Sequence[Path], out: Path | None) -> int:
    """Write the page and say where it is. Returns the exit code."""
    print(f"report: {write_report(run_dirs, out)}")
    return 0


def follow_command(run_dirs: Sequence[Path], port: int) -> int:
    """Serve the page until Ctrl-C. Returns the exit code."""
    for run_dir in run_dirs:
        check_is_folder(run_dir)
    with Server(run_dirs, port) as server:
        print(f"report: {server.url} shows the run as it goes on; Ctrl-C ends this", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    print()
    return 0
