"""What the page answers, in its order: each section asks, says the answer in a sentence, and shows it."""

from __future__ import annotations

import html

import numpy as np

from data.page.figure import colour_of
from data.page.shell import Section
from data.page.tables import description_list, table
from data.words import join_words, nats, percent, plural, short, signed
from train.report import plots, routing
from train.report.balance import balance
from train.report.happened import happened
from train.report.reader import RunRecord
from train.report.series import LINE_POINTS, first_finite, last_finite, smoothed
from train.report.speed import speed

DOMAINS_NAMED = 5  # in a sentence; more are counted


def sections(run: RunRecord) -> list[Section]:
    """All of the page below its headline."""
    return [
        learning(run),
        by_domain(run),
        mix(run),
        balance(run),
        preferences(run),
        speed(run),
        happened(run),
        identity(run),
    ]


# What each domain's held-out loss came to.


def heldout_ends(run: RunRecord) -> dict[str, float]:
    """The newest held-out loss of every domain that has one."""
    ends = {domain: last_finite(run.heldout_loss(domain)) for domain in run.domains}
    return {domain: loss for domain, loss in ends.items() if loss is not None}


def differences(run: RunRecord) -> dict[str, float]:
    """Held-out loss less the unigram loss: below zero, the model has learned more than frequencies."""
    unigram = {domain: run.unigram_loss(domain) for domain in run.domains}
    return {
        domain: loss - below for domain, loss in heldout_ends(run).items() if (below := unigram[domain]) is not None
    }


def against_unigram(run: RunRecord) -> str:
    """The mean difference in words; empty if there is none."""
    gaps = list(differences(run).values())
    if not gaps:
        return ""
    gap = float(np.mean(gaps))
    return f"{abs(gap):.3f} nats {'below' if gap < 0 else 'above'} unigram"


# The sections.


def learning(run: RunRecord) -> Section:
    figures = [plots.training_loss(run)]
    if heldout_ends(run):
        figures.insert(0, plots.heldout_loss(run))
    return Section("learning", "Is it learning?", learning_answer(run), figures, learning_table(run))


def learning_answer(run: RunRecord) -> str:
    loss = run.steps["loss/cross_entropy"]
    change = f"went from {nats(loss[0])} to {nats(last_finite(smoothed(loss)))}"
    trained = f"Training loss {change if len(loss) > 1 else f'is {nats(loss[0])}'} nats per token."
    ends = heldout_ends(run)
    if not ends:
        return f"{trained} Nothing has been evaluated on held-out text yet (eval_interval: {eval_interval(run)})."
    starts = [first_finite(run.heldout_loss(domain)) or 0.0 for domain in ends]
    times = len(run.evaluations)
    first, last = float(np.mean(starts)), float(np.mean(list(ends.values())))
    went = f"went from {nats(first)} to {nats(last)}" if times > 1 else f"is {nats(last)}"
    gap = against_unigram(run)
    compared = f", {gap} models of the same text" if gap else ""
    mean = f"mean of {plural(len(ends), 'domain')}, {plural(times, 'evaluation')}"
    return f"Held-out loss {went} nats per token ({mean}){compared}. {trained}"


def eval_interval(run: RunRecord) -> str:
    return str(run.recipe.get("eval_interval", "not set"))


def learning_table(run: RunRecord) -> str:
    if not heldout_ends(run):
        return ""
    ends, gaps = heldout_ends(run), differences(run)
    rows = [
        (swatch(run, domain), [nats(ends.get(domain)), nats(run.unigram_loss(domain)), signed(gaps.get(domain))])
        for domain in run.domains
    ]
    columns = ["domain", "held-out loss", "unigram loss", "difference"]
    return table("Last evaluation (nats per token)", columns, rows)


def by_domain(run: RunRecord) -> Section:
    ends = {domain: last_finite(smoothed(run.steps[f"domain/loss/{domain}"])) for domain in run.domains}
    known = {domain: loss for domain, loss in ends.items() if loss is not None}
    never = [domain for domain in run.domains if domain not in known]
    answer = "No domain's loss is known yet."
    if known:
        best, worst = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
        answer = f"Training loss is lowest on {best} ({nats(known[best])} nats per token)"
        answer += f" and highest on {worst} ({nats(known[worst])})." if worst != best else "."
    if never:
        answer += f" Not drawn so far: {join_words(never)}."
    return Section("domains", "On what?", answer, [plots.domain_losses(run)])


def mix(run: RunRecord) -> Section:
    tokens = {"asked": asked_tokens(run), "delivered": delivered_tokens(run)}
    figures = [plots.mixture(run), plots.domain_tokens(run), plots.domain_epochs(run)]
    return Section("mixture", "At what mix?", mix_answer(run, tokens), figures, mix_table(run, tokens))


def mix_answer(run: RunRecord, tokens: dict[str, dict[str, float]]) -> str:
    apart = max(abs(tokens["delivered"][domain] - tokens["asked"][domain]) for domain in run.domains)
    answer = (
        f"After {short(run.tokens_done)} tokens, no domain is more than {short(np.ceil(apart))} tokens "
        f"({apart / run.tokens_done:.2%} of all) away from what the curriculum asked."
    )
    epochs = {domain: last_finite(run.steps[f"mixture/epochs/{domain}"]) or 0.0 for domain in run.domains}
    most = max(epochs, key=epochs.__getitem__)
    if epochs[most] <= 1:
        return f"{answer} No text came twice; the model has seen {percent(epochs[most])} of {most}, the most of any."
    again = [domain for domain in run.domains if epochs[domain] > 1]
    which = join_words(again) if len(again) <= DOMAINS_NAMED else plural(len(again), "domain")
    return f"{answer} Text came again of {which}; of {most} the most, {epochs[most]:.2f} epochs so far."


def asked_tokens(run: RunRecord) -> dict[str, float]:
    """Tokens that the curriculum has asked for of every domain so far."""
    step_tokens = run.step_tokens
    return {domain: float(np.nansum(run.steps[f"mixture/asked/{domain}"] * step_tokens)) for domain in run.domains}


def delivered_tokens(run: RunRecord) -> dict[str, float]:
    """Tokens that the model was given of every domain so far."""
    return {domain: last_finite(run.steps[f"mixture/tokens/{domain}"]) or 0.0 for domain in run.domains}


def mix_table(run: RunRecord, tokens: dict[str, dict[str, float]]) -> str:
    columns = ["domain", "tokens asked", "tokens delivered", "epochs delivered"]
    columns += [] if run.finished else ["tokens by the end", "epochs by the end"]
    rows = []
    for domain in run.domains:
        asked, delivered = tokens["asked"][domain], tokens["delivered"][domain]
        plan = run.plan["domains"][domain]
        # As each row said: a dataset may have grown, and had shorter epochs before.
        epochs = last_finite(run.steps[f"mixture/epochs/{domain}"]) or 0.0
        cells = [f"{asked:,.0f}", f"{delivered:,.0f}", f"{epochs:.3f}"]
        cells += [] if run.finished else [f"{plan['tokens']:,}", f"{plan['epochs']:.3f}"]
        rows.append((swatch(run, domain), cells))
    return table("Tokens and epochs of each domain so far", columns, rows)


def preferences(run: RunRecord) -> Section:
    title = "Which experts for which domain?"
    found = run.metrics.routing
    if found is None:
        return Section("routing", title, "Not known yet: it is written at each evaluation and at the run's end.")
    return Section("routing", title, routing.answer(run, found), [routing.heat_map(run, found)])


def identity(run: RunRecord) -> Section:
    plan, model = run.plan, run.recipe.get("model", {})
    experts, dense = model.get("ffn_config", {}), run.first_moe_layer
    entries = [
        ("Run", plan["run_name"]),
        ("Parameters", f"{plan['parameters']:,}"),
        ("Active for a token", f"{plan['active_parameters']:,}"),
        (
            "Model",
            f"{model.get('n_layers', '?')} layers, d_model {model.get('d_model', '?')}, "
            f"{experts.get('moe_num_experts', '?')} experts, top {experts.get('moe_top_k', '?')}"
            + (f", {plural(dense, 'dense layer')} first" if dense else ""),
        ),
        ("Steps", f"{run.steps_done:,} of {run.planned_steps:,}"),
        ("Tokens", f"{run.tokens_done:,} of {plan['tokens']:,}"),
        ("Tokens per step", f"{plan['tokens_per_step']:,}"),
        ("Sequence length", f"{run.manifest.max_seq_len:,} tokens"),
        ("Tokenizer", f"{run.manifest.tokenizer.name}, {run.manifest.tokenizer.vocab_size:,} tokens"),
        ("Dataset fingerprint", plan["dataset"]),
        ("Plan fingerprint", plan["plan"]),
    ]
    recipe = f'<pre tabindex="0" aria-label="recipe.yaml">{html.escape(run.recipe_text)}</pre>'
    below = f"{description_list(entries)}<details><summary>The whole recipe, resolved</summary>{recipe}</details>"
    answer = (
        f"A model of {short(plan['parameters'])} parameters, {short(plan['active_parameters'])} of them active for a "
        f"token, on a plan of {plural(run.planned_steps, 'step')} and {short(plan['tokens'])} tokens."
    )
    return Section("identity", "What is it?", answer, below=below)


def swatch(run: RunRecord, domain: str) -> str:
    """A domain's name behind its colour."""
    colour = colour_of(run.domains.index(domain))
    return f'<span class="swatch" style="background:{colour}"></span>{html.escape(domain)}'


def thinning_note(run: RunRecord) -> str:
    """Says what the lines leave out, if they do."""
    steps = len(run.steps)
    if steps <= LINE_POINTS:
        return ""
    return (
        f"Lines are thinned from {steps:,} steps to {LINE_POINTS:,} points; the faint ones keep the lowest and the "
        "highest of every stretch. Numbers in the text and in the tables are worked out from all steps."
    )
