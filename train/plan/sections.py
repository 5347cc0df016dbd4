"""What the plan's page answers, in its order."""

from __future__ import annotations

import html
from typing import Any

from data.mixture.plan import Plan
from data.page.figure import colour_of
from data.page.shell import Card, Section
from data.page.tables import table
from data.words import byte_count, change, join_words, plural, short
from train.cache import size_in_words
from train.memory.moments import PARTS
from train.places import step_cell
from train.plan import figures
from train.plan.memory import memory_notes
from train.plan.ranks import grid, in_words, listed
from train.plan.summary import shown_spans
from train.reader import to_yaml
from train.recipe import Recipe

Summary = dict[str, Any]

NAMED = 3  # of many domains only the largest are named in a sentence


def sections(recipe: Recipe, plan: Plan, summary: Summary) -> list[Section]:
    """All of the page below its headline."""
    parts = [
        mix(summary, plan),
        amounts(summary, plan),
        repeats(summary),
        spans(summary),
        shards(recipe, summary),
        ranks(summary),
        memory(summary),
        identity(recipe, summary),
    ]
    return [mind(summary), *parts] if summary["warnings"] else parts


def headline(summary: Summary) -> list[Card]:
    """The few numbers that matter."""
    domains = summary["domains"]
    most = max(domains, key=lambda domain: domains[domain]["epochs"])
    missing = summary["shards"]["bytes_to_download"]
    return [
        ("Tokens", short(summary["tokens"]), f"in {plural(summary['steps'], 'step')}"),
        ("Most epochs", f"{domains[most]['epochs']:.2f}", f"of {most}"),
        ("To download", byte_count(missing), f"of {byte_count(summary['shards']['bytes'])} to read"),
        ("Parameters", short(summary["parameters"]), f"{short(summary['active_parameters'])} active for a token"),
    ]


def mind(summary: Summary) -> Section:
    return Section("mind", "What is there to mind?", sentences(summary["warnings"]))


def mix(summary: Summary, plan: Plan) -> Section:
    first, last = largest(plan, 0), largest(plan, summary["samples"] - 1)
    answer = f"It begins with {first}" + (" and stays there." if first == last else f" and ends with {last}.")
    if summary["unread_domains"]:
        answer += f" Not read, though the dataset has it: {join_words(summary['unread_domains'])}."
    return Section("mix", "At what mix?", answer, [figures.schedule(summary, plan)])


def largest(plan: Plan, sample: int) -> str:
    """The domains of the largest weights at a sample, in words."""
    weights = sorted(zip(plan.weights(sample).tolist(), plan.domains, strict=True), key=lambda pair: -pair[0])
    named = [f"{weight:.1%} {domain}" for weight, domain in weights if weight]
    return join_words(named if len(named) <= NAMED else [*named[:NAMED], "others"])


def amounts(summary: Summary, plan: Plan) -> Section:
    domains = summary["domains"]
    most, least = (pick(domains, key=lambda domain: domains[domain]["tokens"]) for pick in (max, min))
    answer = f"Most comes from {most}: {short(domains[most]['tokens'])} tokens, {domains[most]['share']:.1%} of all."
    if most != least:
        answer += f" Least comes from {least}: {short(domains[least]['tokens'])}, {domains[least]['share']:.1%}."
    columns = ["domain", "tokens", "share", "epochs", "tokens in the dataset"]
    rows = [
        (
            swatch(summary, name),
            [
                f"{domain['tokens']:,}",
                f"{domain['share']:.2%}",
                f"{domain['epochs']:.3f}",
                f"{domain['rows'] * figures.sample_tokens(summary):,}",
            ],
        )
        for name, domain in domains.items()
    ]
    plots = [figures.cumulative_tokens(summary, plan), figures.cumulative_epochs(summary, plan)]
    return Section("amounts", "How much of what?", answer, plots, table("In all", columns, rows))


def repeats(summary: Summary) -> Section:
    """Domains that begin anew, and where."""
    again = {name: domain["repeats"] for name, domain in summary["domains"].items() if domain["repeats"]["count"]}
    if not again:
        return Section("repeats", "What repeats?", "Nothing: no domain is read to its end and begun anew.")
    rows = []
    for name, found in again.items():
        for place in found["begin"]:
            cells = [f"{place['epoch'] + 1:,} of {found['count'] + 1:,}", f"{place['tokens']:,}"]
            rows.append((swatch(summary, name), [*cells, step_cell(place["step"])]))
    often = [f"{name} {times(found['count'])}" for name, found in again.items()]
    answer = f"Read to the end and begun anew, in another order: {join_words(often)}."
    columns = ["domain", "epoch", "begins at token", "in step"]
    return Section("repeats", "What repeats?", answer, below=table("Where an epoch begins", columns, rows))


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def spans(summary: Summary) -> Section:
    gone = " and the places where a domain is used up" if summary["used_up"] else ""
    tables = "\n".join(span_table(summary, span) for span in shown_spans(summary))
    answer = f"Between the anchors{gone}, with the weights and the epochs at both ends."
    return Section("spans", "When?", answer, below=f'<div class="plots">{tables}</div>')


def span_table(summary: Summary, span: dict[str, Any]) -> str:
    caption = f"From {short(span['from_tokens'])} to {short(span['to_tokens'])} tokens"
    rows = [
        (
            swatch(summary, name),
            [
                change(domain["weight_from"], domain["weight_to"], ".4f"),
                f"{domain['tokens']:,}",
                change(domain["epochs_from"], domain["epochs_to"], ".3f"),
            ],
        )
        for name, domain in span["domains"].items()
        if domain["weight_from"] or domain["weight_to"] or domain["tokens"]
    ]
    return table(caption, ["domain", "weight", "tokens", "epochs"], rows)


def shards(recipe: Recipe, summary: Summary) -> Section:
    found = summary["shards"]
    answer = f"{plural(found['shards'], 'shard')} of {recipe.dataset.path}, {byte_count(found['bytes'])}; "
    missing = found["bytes_to_download"]
    fetched = f"{byte_count(missing)} of it is still to be downloaded from {found['remote']}, to each node."
    answer += fetched if missing else "all of it is on this machine."
    parts = {swatch(summary, name): part for name, part in found["domains"].items()}
    parts |= {"held out": found["heldout"], "in all": found}
    rows = [
        (
            name,
            [
                f"{part['shards']:,} of {part['of_shards']:,}",
                byte_count(part["bytes"]),
                byte_count(part["bytes_to_download"]),
            ],
        )
        for name, part in parts.items()
    ]
    columns = ["domain", "shards", "size", "to download"]
    return Section("shards", "What is read?", answer, below=table("Shards to read", columns, rows))


def ranks(summary: Summary) -> Section:
    """The mesh, and who shares what."""
    layout = summary["layout"]
    answer = sentences([*in_words(layout)])
    columns, rows = grid(layout)
    shared = [
        (group["what"], [f"{group['groups']:,}", f"{group['size']:,}", listed(group["first"])])
        for group in layout["groups"]
    ]
    below = table("Ranks by experts", ["experts", *columns], rows)
    if shared:
        below += table("What ranks share", ["what", "groups", "of ranks", "such as"], shared)
    return Section("ranks", "On which ranks?", answer, below=below)


def memory(summary: Summary) -> Section:
    """What a rank needs at its worst moment."""
    needed = summary["memory"]
    limit = "" if needed["limit"] is None else f", of {size_in_words(needed['limit'])}"
    answer = f"{byte_count(needed['bytes'])}{limit}. {sentences(memory_notes(needed))}"
    rows = [
        (html.escape(name), [byte_count(needed["parts"][part]), f"{needed['parts'][part] / needed['bytes']:.1%}"])
        for part, name in PARTS.items()
        if needed["parts"][part]
    ]
    rows.append(("in all", [byte_count(needed["bytes"]), ""]))
    columns = ["what", "size", "share"]
    return Section("memory", "How much memory does a rank need?", answer, below=table("At the most", columns, rows))


def identity(recipe: Recipe, summary: Summary) -> Section:
    answer = (
        f"Dataset fingerprint {summary['dataset'][:12]}, plan fingerprint {summary['plan'][:12]}: "
        "as long as these are the same, so is the order of the samples."
    )
    below = folded("The curriculum", to_yaml(recipe.curriculum), "open") + folded("The whole recipe", to_yaml(recipe))
    return Section("identity", "What is it made of?", answer, below=below)


def folded(name: str, yaml: str, state: str = "") -> str:
    text = f'<pre tabindex="0" aria-label="{name}">{html.escape(yaml)}</pre>'
    return f"<details {state}><summary>{name}, resolved</summary>{text}</details>"


def sentences(parts: list[str]) -> str:
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def swatch(summary: Summary, domain: str) -> str:
    """A domain's name behind its colour."""
    colour = colour_of(list(summary["domains"]).index(domain))
    return f'<span class="swatch" style="background:{colour}"></span>{html.escape(domain)}'
