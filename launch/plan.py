"""`brickyard plan`: what a run will read, in a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from train.curriculum import summarise
from train.inputs import read_run


def plan_command(path: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Print the plan of the recipe at `path`. Returns the exit code."""
    recipe, manifest = read_run(path, overrides)
    summary = summarise(recipe, manifest)
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary)
    return 0


def show(summary: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(
        f"[bold]{summary['run_name']}[/]: {summary['steps']:,} steps of {summary['tokens_per_step']:,} tokens, "
        f"{short(summary['tokens'])} tokens in all; a model of {short(summary['parameters'])} parameters, "
        f"{short(summary['active_parameters'])} of them active for a token"
    )
    totals = Table(
        "domain", *[right(name) for name in ("tokens", "share", "epochs", "samples in the dataset")], box=None
    )
    for name, domain in summary["domains"].items():
        totals.add_row(
            name, short(domain["tokens"]), f"{domain['share']:.1%}", f"{domain['epochs']:.2f}", f"{domain['rows']:,}"
        )
    console.print(totals)
    spans = Table(
        "tokens from", "to", *summary["domains"], box=None, title="weights and epochs by span", title_justify="left"
    )
    for span in summary["spans"]:
        spans.add_row(short(span["from_tokens"]), short(span["to_tokens"]), *map(span_cell, span["domains"].values()))
    console.print(spans)


def span_cell(domain: dict[str, Any]) -> str:
    first, last = domain["weight_from"], domain["weight_to"]
    weights = f"{first:.3f}" if abs(first - last) < 5e-4 else f"{first:.3f} -> {last:.3f}"
    return f"{weights}  (epoch {domain['epochs_from']:.2f} to {domain['epochs_to']:.2f})"


def right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def short(number: float) -> str:
    """1234567 as 1.23M."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= scale:
            return f"{number / scale:.3g}{letter}"
    return f"{number:.0f}"
