"""`brickyard plan`: what a run will read, in a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from train.curriculum import build_plan
from train.inputs import read_run
from train.plan.summary import summarise
from train.words import short


def plan_command(path: Path, overrides: Sequence[str], *, as_json: bool) -> int:
    """Print the plan of the recipe at `path`. Returns the exit code."""
    recipe, manifest = read_run(path, overrides)
    summary = summarise(recipe, manifest, build_plan(recipe, manifest))
    if as_json:
        print(json.dumps(summary, indent=2))
    else:
        show(summary)
    return 0


def show(summary: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{summary['run_name']}[/]")
    tokens, steps = short(summary["tokens"]), f"{summary['steps']:,}"
    console.print(f"  {tokens} tokens in {steps} steps of {summary['tokens_per_step']:,}")
    parameters, active = short(summary["parameters"]), short(summary["active_parameters"])
    console.print(f"  a model of {parameters} parameters, {active} of them active for a token")
    console.print()
    console.print(totals_table(summary["domains"]))
    console.print()
    console.print(spans_table(summary["spans"]))


def totals_table(domains: dict[str, Any]) -> Table:
    table = Table("domain", right("tokens"), right("share"), right("epochs"), right("samples in the dataset"), box=None)
    for name, domain in domains.items():
        share, epochs = f"{domain['share']:.1%}", f"{domain['epochs']:.2f}"
        table.add_row(name, short(domain["tokens"]), share, epochs, f"{domain['rows']:,}")
    return table


def spans_table(spans: list[dict[str, Any]]) -> Table:
    """Between two anchors: each domain's weight on the way, its tokens, and its epochs at both ends."""
    table = Table("from token", "to token", "domain", "weight", right("tokens"), "epochs", box=None)
    for span in spans:
        edges = short(span["from_tokens"]), short(span["to_tokens"])
        for name, domain in span["domains"].items():
            weight = arrow(domain["weight_from"], domain["weight_to"], ".3f")
            epochs = arrow(domain["epochs_from"], domain["epochs_to"], ".2f")
            table.add_row(*edges, name, weight, short(domain["tokens"]), epochs)
            edges = "", ""
    return table


def arrow(first: float, last: float, form: str) -> str:
    """`0.60 -> 0.20`, or `0.20` where nothing changes."""
    before, after = format(first, form), format(last, form)
    return before if before == after else f"{before} -> {after}"


def right(name: str) -> Column:
    return Column(name, justify="right")
