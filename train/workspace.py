"""The W&B workspace of a recipe's project: a section for each group of metrics, tokens on every x axis."""

from __future__ import annotations

from collections.abc import Sequence

from wandb_workspaces.reports.v2 import LinePlot, MediaBrowser
from wandb_workspaces.reports.v2.interface import PanelTypes
from wandb_workspaces.workspaces import Section, SectionLayoutSettings, Workspace, WorkspaceSettings

from train.recipe import Recipe

X = "tokens"


def workspace(recipe: Recipe, domains: Sequence[str]) -> Workspace:
    """Of the recipe's entity ("" for the user's own) and project; where runs differ in what they have, such as parts of
    a step's time, a pattern chooses."""
    sections: dict[str, list[PanelTypes]] = {
        "Loss": [
            line("Cross-entropy, training and held out", "loss/cross_entropy", "eval/loss/cross_entropy"),
            line("Losses as they enter the total", pattern="^loss/"),
        ],
        "Domains": [
            line("Training loss by domain", *[f"domain/loss/{name}" for name in domains]),
            line("Held-out loss by domain", *[f"eval/domain/loss/{name}" for name in domains]),
            *(line(name, f"domain/loss/{name}", f"eval/domain/loss/{name}") for name in domains),
        ],
        "Mixture": [
            *(line(f"{name}: weight", f"mixture/asked/{name}", f"mixture/delivered/{name}") for name in domains),
            line("Tokens so far", *[f"mixture/tokens/{name}" for name in domains]),
            line("Epochs so far", *[f"mixture/epochs/{name}" for name in domains]),
        ],
        "Experts": [
            line("Busiest expert above an equal share", "moe/max_violation"),
            line("Experts without a token", "moe/dead_experts"),
            line("Tokens dropped", "moe/dropped_tokens"),
            line("Entropy of the router", "moe/router_entropy"),
            line("Router z", "moe/router_z"),
            MediaBrowser(title="Routing by domain", media_keys=["moe/routing"]),
        ],
        "Throughput": [
            line("Tokens per second", "throughput/tokens_per_second"),
            line("Model FLOPs utilisation", "throughput/mfu"),
            line("Seconds of a step, by part", pattern="^throughput/seconds(/|$)"),
            line("Seconds left", "throughput/seconds_left"),
        ],
        "Optimizer": [
            line("Learning rate", "optimizer/lr"),
            line("Gradient norm before clipping", "optimizer/gradient_norm"),
            *(line(f"{what} norm by part", pattern=f"^optimizer/{what.lower()}_norm/") for what in NORMS),
        ],
        "Memory": [line("Memory", pattern="^memory/")],
    }
    return Workspace(
        entity=recipe.wandb.entity or "",
        project=recipe.wandb.project,
        name="Brickyard",
        sections=[
            Section(name=name, panels=panels, is_open=True, layout_settings=SectionLayoutSettings(columns=3, rows=2))
            for name, panels in sections.items()
        ],
        settings=WorkspaceSettings(x_axis=X, group_by_prefix="first"),
    )


NORMS = ("Gradient", "Update", "Weight")


def line(title: str, *metrics: str, pattern: str | None = None) -> LinePlot:
    return LinePlot(title=title, x=X, y=list(metrics), metric_regex=pattern)
