"""The plan on a terminal: what is read when, how often, from how many shards, and what to mind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from data.mixture.plan import Plan
from data.words import byte_count, change, join_words, short
from launch.plan.drawing import draw_mixture
from train.memory.moments import PARTS
from train.places import step_cell
from train.plan.memory import memory_notes, memory_warnings
from train.plan.ranks import grid, in_words, listed
from train.plan.summary import shown_spans

Summary = dict[str, Any]

ARROW = "->"  # a terminal may have no other


def show(summary: Summary, plan: Plan, console: Console) -> None:
    """Print the whole summary."""
    show_parts([heading(summary), draw_mixture(summary, plan, console), *tables(summary), last_words(summary)], console)


def show_recipe(summary: Summary, console: Console) -> None:
    """Print what is known without a dataset, of which `summarise_recipe` is the summary."""
    notes = Text("\n".join([*memory_notes(summary["memory"]), *memory_warnings(summary["memory"])]))
    show_parts([heading(summary), *rank_tables(summary), notes], console)


def show_parts(parts: Iterable[Text | Table], console: Console) -> None:
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
            console.print()
    # Rich pads lines to the width of their table, and takes a closed pipe (`| head`) for a failure of its own.
    for line in capture.get().rstrip().splitlines():
        print(line.rstrip())


def heading(summary: Summary) -> Text:
    parameters, active = short(summary["parameters"]), short(summary["active_parameters"])
    rates = (f"{part['what']} until {short(part['to_tokens'])} tokens" for part in summary["learning_rate"])
    return Text.assemble(
        (summary["run_name"], "bold"),
        f"\n  {short(summary['tokens'])} tokens in {summary['steps']:,} steps of {summary['tokens_per_step']:,}",
        f"\n  a model of {parameters} parameters, {active} active for a token",
        f"\n  learning rate: {', then '.join(rates)}",
        *(f"\n  {line}" for line in in_words(summary["layout"])),
    )


def tables(summary: Summary) -> Iterator[Table]:
    yield totals_table(summary)
    if any(domain["repeats"]["count"] for domain in summary["domains"].values()):
        yield repeats_table(summary["domains"])
    yield spans_table(shown_spans(summary))
    yield shards_table(summary["shards"])
    yield from rank_tables(summary)


def rank_tables(summary: Summary) -> Iterator[Table]:
    if summary["layout"]["ranks"] > 1:
        yield ranks_table(summary["layout"])
        yield groups_table(summary["layout"])
    yield memory_table(summary["memory"])


def totals_table(summary: Summary) -> Table:
    sample_tokens = summary["tokens"] // summary["samples"]
    table = plain("domain", right("tokens"), right("share"), right("epochs"), right("tokens in the dataset"))
    for name, domain in summary["domains"].items():
        share, epochs = f"{domain['share']:.1%}", f"{domain['epochs']:.2f}"
        table.add_row(name, short(domain["tokens"]), share, epochs, short(domain["rows"] * sample_tokens))
    return table


def repeats_table(domains: dict[str, Any]) -> Table:
    """Domains that begin anew, and where: the first few times and the last."""
    table = plain("repeats", right("times"), right("from step"), "from token")
    for name, domain in domains.items():
        count, begin = domain["repeats"]["count"], domain["repeats"]["begin"]
        if count:
            tokens = [short(place["tokens"]) for place in begin]
            if count > len(begin):
                tokens.insert(-1, "...")
            table.add_row(name, f"{count:,}", step_cell(begin[0]["step"]), ", ".join(tokens))
    return table


def spans_table(spans: list[dict[str, Any]]) -> Table:
    """Between two anchors: each domain's weight on the way, its tokens, and its epochs at both ends."""
    table = plain("from", "domain", whole("weight"), right("tokens"), whole("epochs"))
    for span in spans:
        if table.row_count:
            table.add_row()
        start = short(span["from_tokens"])
        for name, domain in span["domains"].items():
            if domain["weight_from"] or domain["weight_to"] or domain["tokens"]:
                weight = change(domain["weight_from"], domain["weight_to"], ".3f", ARROW)
                epochs = change(domain["epochs_from"], domain["epochs_to"], ".2f", ARROW)
                table.add_row(start, name, weight, short(domain["tokens"]), epochs)
                start = ""
    return table


def shards_table(shards: dict[str, Any]) -> Table:
    """What is read from the disk, and what has to be fetched first."""
    missing = shards["bytes_to_download"]
    table = plain("shards to read", right("shards"), right("size"), *([right("to download")] if missing else []))
    parts = {**shards["domains"], "held out": shards["heldout"], "in all": shards}
    for name, part in parts.items():
        read = f"{part['shards']:,}" + ("" if part["shards"] == part["of_shards"] else f" of {part['of_shards']:,}")
        cells = [read, byte_count(part["bytes"]), byte_count(part["bytes_to_download"])]
        table.add_row(name, *(cells if missing else cells[:-1]))
    return table


def ranks_table(layout: dict[str, Any]) -> Table:
    """The mesh."""
    columns, rows = grid(layout)
    table = plain(whole("ranks by experts"), *map(right, columns))
    for name, cells in rows:
        table.add_row(name, *cells)
    return table


def groups_table(layout: dict[str, Any]) -> Table:
    table = plain("shared by", right("groups"), right("of ranks"), "such as")
    for group in layout["groups"]:
        table.add_row(group["what"], f"{group['groups']:,}", f"{group['size']:,}", listed(group["first"]))
    return table


def memory_table(memory: dict[str, Any]) -> Table:
    table = plain("memory of a rank, predicted", right("at the most"))
    for part, size in memory["parts"].items():
        if size:
            table.add_row(PARTS[part], byte_count(size))
    table.add_row("in all", byte_count(memory["bytes"]))
    return table


def last_words(summary: Summary) -> Text:
    """What the reader must not miss."""
    lines = [Text(line) for line in memory_notes(summary["memory"])]
    shards = summary["shards"]
    missing = f"{byte_count(shards['bytes_to_download'])} to download from {shards['remote']}, to each node"
    lines.append(Text(missing if shards["bytes_to_download"] else "nothing to download"))
    if summary["unread_domains"]:
        lines.append(Text(f"not read, though the dataset has it: {join_words(summary['unread_domains'])}"))
    lines += [Text(f"warning: {warning}", style="bold yellow") for warning in summary["warnings"]]
    return Text("\n").join(lines)


def plain(*columns: str | Column) -> Table:
    """A table without lines. Where it is too wide for the terminal, names are folded and numbers are not."""
    return Table(*(Column(c, overflow="fold") if isinstance(c, str) else c for c in columns), box=None)


def whole(name: str) -> Column:
    return Column(name, no_wrap=True)


def right(name: str) -> Column:
    return Column(name, justify="right", no_wrap=True)
