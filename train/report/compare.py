"""The page of several runs: their curves over tokens, what they came to, and how their recipes differ."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.page.figure import Figure, Trace, colour_of, of_choice, of_domain, scatter
from data.page.shell import Card, Section, whole_page
from data.page.tables import table
from data.words import join_words, nats, percent, plural, short
from train.report.lines import smooth
from train.report.reader import Column, RunRecord
from train.report.runs import Runs, heldout, step_value
from train.report.series import last_finite, means, present, smoothed, thinned

NOTHING = "–"
NAMED = 5  # runs in a sentence


def render_comparison(records: Sequence[RunRecord]) -> str:
    """The page."""
    runs = Runs.of(records)
    newest = max(record.measured_at for record in records)
    return whole_page(
        name=join_words(runs.names) if len(records) <= 3 else plural(len(records), "run"),
        state=f"{plural(len(records), 'run')}; all of them have come to {short(runs.common_tokens)} tokens",
        cards=headline(runs),
        domains=runs.names,
        sections=[learning(runs), by_domain(runs), mix(runs), balance(runs), speed(runs), differences(runs)],
        notes=[f"Metrics as of {newest:%Y-%m-%d %H:%M} UTC. Written by <code>brickyard report</code>."],
        what="run",
    )


def headline(runs: Runs) -> list[Card]:
    """Which run leads in what; losses as far as all of them have come."""
    violations = {name: step_value(run, "moe/max_violation") for name, run in runs.by_name.items()}
    return [
        best("Training loss", runs.losses("loss/cross_entropy"), nats, min),
        best("Held-out loss", runs.heldout(), nats, min),
        best("Tokens per second", runs.medians("throughput/tokens_per_second"), short, max),
        best("Max violation", {name: v for name, v in violations.items() if v is not None}, percent, min),
    ]


def best(what: str, values: Mapping[str, float], form: Callable[[float], str], choose: Callable[..., str]) -> Card:
    if not values:
        return what, NOTHING, "not known of any"
    name = choose(values, key=values.__getitem__)
    return what, form(values[name]), f"{'the lowest' if choose is min else 'the highest'}: {name}"


def learning(runs: Runs) -> Section:
    losses, at = runs.losses("loss/cross_entropy"), short(runs.common_tokens)
    order = sorted(losses, key=losses.__getitem__)[:NAMED]
    said = join_words([f"{name} ({nats(losses[name])})" for name in order])
    answer = f"After {at} tokens training loss is lowest for {said}, in nats per token."
    figures = [over_tokens(runs, "training-loss", "Training loss", "nats per token", "loss/cross_entropy")]
    if any(len(run.evaluations) for run in runs.records):
        figures.insert(0, heldout_loss(runs))
    return Section("learning", "Which one learns best?", answer, figures, ends_table(runs))


def ends_table(runs: Runs) -> str:
    at = short(runs.common_tokens)
    columns = ["run", "steps", "tokens", f"loss at {at}", f"held out at {at}", "last loss", "last held out"]
    columns += ["tokens/s", "MFU", "parameters", "active"]
    losses, held_out = runs.losses("loss/cross_entropy"), runs.heldout()
    speeds, mfus = (runs.medians(f"throughput/{column}") for column in ("tokens_per_second", "mfu"))
    rows = []
    for name, run in runs.by_name.items():
        cells = [
            f"{run.steps_done:,}{'' if run.finished else f' of {run.planned_steps:,}'}",
            short(run.tokens_done),
            nats(losses.get(name)),
            nats(held_out.get(name)),
            nats(step_value(run, "loss/cross_entropy")),
            nats(heldout(run)),
            f"{speeds[name]:,.0f}" if name in speeds else NOTHING,
            percent(mfus.get(name)),
            short(run.plan["parameters"]),
            short(run.plan["active_parameters"]),
        ]
        rows.append((swatch(runs, name), cells))
    return table("What they came to", columns, rows)


def heldout_loss(runs: Runs) -> Figure:
    """The mean over domains, or one of them, as the reader chooses."""
    columns = ["eval/loss/cross_entropy", *(f"eval/domain/loss/{domain}" for domain in runs.domains)]
    lines = []
    for choice, column in enumerate(columns):
        for index, (name, run) in enumerate(runs.by_name.items()):
            x, y = thinned(*present(run.evaluations["tokens"], run.evaluations[column]))
            mode: dict[str, Any] = {"mode": "lines+markers"} if len(x) <= 60 else {}
            lines.append(scatter(x, y, name, colour_of(index), **mode, **of_choice(choice, index)))
    said = join_words([f"{name} ends at {nats(heldout(run))}" for name, run in runs.by_name.items()])
    return Figure(
        "heldout-loss",
        "Held-out loss",
        f"Held-out loss over tokens, in nats per token, mean over the domains: {said}.",
        "Each domain counts the same for the mean.",
        lines,
        "nats per token",
        x_axis={"rangemode": "tozero"},
        choices=["mean of the domains", *runs.domains],
    )


def by_domain(runs: Runs) -> Section:
    figure = Figure(
        "domain-loss",
        "Training loss by domain",
        "Training loss over tokens of the chosen domain, a line for each run, in nats per token.",
        "Moving mean over the steps that drew the domain.",
        of_domains(runs, "domain/loss", smooth),
        "nats per token",
        height=380,
        wide=True,
        choices=runs.domains,
    )
    losses = {domain: runs.losses(f"domain/loss/{domain}") for domain in runs.domains}
    rows = [(swatch(runs, name), [nats(of.get(name)) for of in losses.values()]) for name in runs.names]
    lowest = [f"{domain} {min(of, key=of.__getitem__)}" for domain, of in losses.items() if of]
    at = short(runs.common_tokens)
    answer = f"After {at} tokens training loss is lowest, by domain: {', '.join(lowest)}."
    return Section("domains", "On what?", answer, [figure], table(f"Training loss at {at}", ["run", *losses], rows))


def mix(runs: Runs) -> Section:
    def share(x: Column, y: Column, name: str, colour: str, **more: Any) -> Trace:
        return scatter(*means(x, 100 * y), name, colour, **more)

    figure = Figure(
        "mixture",
        "Share of a domain in the tokens",
        "Share of the chosen domain in the tokens that the model was given, over tokens, a line for each run.",
        "What the model was given, in means over stretches of steps.",
        of_domains(runs, "mixture/delivered", share),
        "share of tokens (%)",
        height=380,
        y_axis={"rangemode": "tozero"},
        wide=True,
        choices=runs.domains,
    )
    rows = []
    for name, run in runs.by_name.items():
        tokens = [last_finite(run.steps[f"mixture/tokens/{domain}"]) for domain in runs.domains]
        rows.append((swatch(runs, name), [percent(None if t is None else t / run.tokens_done) for t in tokens]))
    same = len({tuple(cells) for _, cells in rows}) == 1
    answer = f"In all, the runs were given {'the same mix' if same else 'different mixes'}."
    below = table("Share of each domain so far", ["run", *runs.domains], rows)
    return Section("mixture", "At what mix?", answer, [figure], below)


def of_domains(runs: Runs, group: str, line: Callable[..., Trace]) -> list[Trace]:
    """A line for each domain, of which the reader chooses one, and each run."""
    return [
        line(run.steps["tokens"], run.steps[f"{group}/{domain}"], name, colour_of(index), **of_choice(choice, index))
        for choice, domain in enumerate(runs.domains)
        for index, (name, run) in enumerate(runs.by_name.items())
    ]


def balance(runs: Runs) -> Section:
    title, above = "Busiest expert above an equal share", "above equal share (%)"
    figures = [
        over_tokens(runs, "max-violation", title, above, "moe/max_violation", scale=100),
        over_tokens(runs, "router-entropy", "Routers' entropy", "nats", "moe/router_entropy"),
    ]
    said = [f"{percent(step_value(run, 'moe/max_violation'))} in {name}" for name, run in runs.by_name.items()]
    answer = f"At the end the busiest expert is above an equal share by {join_words(said)}."
    return Section("balance", "How balanced?", answer, figures)


def speed(runs: Runs) -> Section:
    what, column = "tokens per second", "throughput/tokens_per_second"
    figures = [over_tokens(runs, "throughput", what.capitalize(), what, column)]
    if runs.medians("throughput/mfu"):
        title = "Model FLOPs utilisation"
        figures.append(over_tokens(runs, "mfu", title, "MFU (%)", "throughput/mfu", scale=100))
    said = join_words([f"{name} {speed:,.0f}" for name, speed in runs.medians(column).items()])
    return Section("speed", "How fast?", f"Tokens per second in the median step: {said}.", figures)


def over_tokens(runs: Runs, figure: str, title: str, y_title: str, column: str, scale: float = 1) -> Figure:
    """A moving mean for each run."""
    ends, lines = [], []
    for index, (name, run) in enumerate(runs.by_name.items()):
        x, y = run.steps["tokens"], scale * run.steps[column]
        lines.append(smooth(x, y, name, colour_of(index), **of_domain(index)))
        end = last_finite(smoothed(y))
        ends += [] if end is None else [f"{name} ends at {end:,.4g}"]
    return Figure(figure, title, f"{title} over tokens: {join_words(ends)}.", "Moving mean.", lines, y_title)


def differences(runs: Runs) -> Section:
    """The keys of the recipes that differ."""
    differ = runs.different_keys()
    rows = [(html.escape(key), [words(value) for value in values]) for key, values in differ.items()]
    below = table("Keys of the recipe", ["key", *runs.names], rows, words=range(1, len(runs.names) + 1)) if rows else ""
    answer = f"{plural(len(differ), 'key')} of the recipe {'differs' if len(differ) == 1 else 'differ'}."
    if len({(run.plan["dataset"], run.plan["plan"]) for run in runs.records}) == 1:
        answer += " All follow the same plan on the same dataset."
    return Section("recipes", "What differs?", answer, below=below)


def words(value: Any) -> str:
    return NOTHING if value is None else str(value)


def swatch(runs: Runs, name: str) -> str:
    """A run's name behind its colour."""
    colour = colour_of(runs.names.index(name))
    return f'<span class="swatch" style="background:{colour}"></span>{html.escape(name)}'
