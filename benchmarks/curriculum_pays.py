"""Does a curriculum pay? Static, step and ramps, equal tokens of every domain, three seeds, on the demo's corpus.

    .venv/bin/python benchmarks/curriculum_pays.py

Every run sees the same number of tokens of each domain; only when they come differs. The runs lie in
runs/curriculum-pays, and those that are finished are not trained again. Ends with one JSON line: final held-out losses
as ratios to the static mixture's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import plotly.graph_objects as go

ROOT = Path(__file__).resolve().parent.parent
BRICKYARD = [sys.executable, "-m", "launch"]
RECIPE = "yamls/demo/pretrain.yaml"
RUNS = "runs/curriculum-pays"

FIRST = "{prose: 0.6, reference: 0.3, code: 0.1}"
LAST = "{prose: 0.2, reference: 0.2, code: 0.6}"
MEAN = "{prose: 0.4, reference: 0.25, code: 0.35}"
CURRICULA = {
    "static": f"[{{at: 0tok, weights: {MEAN}}}]",
    "step": f"[{{at: 0tok, weights: {FIRST}}}, {{at: 0.5dur, weights: {LAST}}}]",
    "ramp": f"[{{at: 0tok, weights: {FIRST}}}, {{at: 1dur, weights: {LAST}, ramp: linear}}]",
    "reversed ramp": f"[{{at: 0tok, weights: {LAST}}}, {{at: 1dur, weights: {FIRST}, ramp: linear}}]",
}
SEEDS = (1, 2, 3)
SMALLER = (
    "model.d_model=64",
    "model.n_layers=2",
    "model.ffn_config.ffn_hidden_size=64",
    "model.ffn_config.moe_num_experts=8",
)

Losses = dict[str, dict[str, list[float]]]  # curriculum -> domain -> final held-out loss of every seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of every run (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--plot", type=Path, default=Path("runs/curriculum-pays/plot.html"), help="where the plot goes")
    options = parser.parse_args()
    os.chdir(ROOT)
    prepare()
    wanted = [(name, seed) for seed in SEEDS for name in CURRICULA]
    losses: Losses = {name: {} for name in CURRICULA}
    with ThreadPoolExecutor(options.parallel) as pool:
        trained = {pool.submit(train, name, seed, options.steps): (name, seed) for name, seed in wanted}
        for future in as_completed(trained):
            if future.exception():
                pool.shutdown(cancel_futures=True)
            (name, seed), final = trained[future], future.result()
            say(f"{name}, seed {seed}: " + "  ".join(f"{domain} {loss:.4f}" for domain, loss in final.items()))
            for domain, loss in {**final, "mean": statistics.mean(final.values())}.items():
                losses[name].setdefault(domain, []).append(loss)
    show(losses, options.steps)
    plot(losses, options.steps).write_html(options.plot, include_plotlyjs=True)
    say(f"plot: {options.plot}")
    print(json.dumps(summary(losses, options.steps)))


def prepare() -> None:
    """The demo's corpus and dataset; nothing is done twice."""
    subprocess.run([sys.executable, "-m", "data.demo_corpus", "corpus/demo"], check=True)
    subprocess.run([*BRICKYARD, "prepare", "yamls/demo/data.yaml"], check=True)


def train(name: str, seed: int, steps: int) -> dict[str, float]:
    """Train one run to its end and return the final held-out loss of each domain."""
    run_name = f"{name.replace(' ', '-')}-{seed}-{steps}"
    overrides = (
        f"run_name={run_name}",
        f"run_root={RUNS}",
        f"seed={seed}",
        f"max_duration={steps}ba",
        f"eval_interval={steps}ba",
        f"save_interval={steps}ba",
        f"curriculum.anchors={CURRICULA[name]}",
        "wandb.mode=disabled",
        *SMALLER,
    )
    say(f"{name}, seed {seed}: training {steps} steps")
    done = subprocess.run(
        [*BRICKYARD, "train", RECIPE, *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"curriculum_pays: {run_name} ended with code {done.returncode}:\n{done.stdout[-2000:]}")
    rows = [json.loads(line) for line in (Path(RUNS) / run_name / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "eval/loss/cross_entropy" in row][-1]
    prefix = "eval/domain/loss/"
    return {key.removeprefix(prefix): value for key, value in last.items() if key.startswith(prefix)}


def show(losses: Losses, steps: int) -> None:
    say(f"final held-out loss after {steps} steps, nats a token: mean of {len(SEEDS)} seeds (lowest to highest)")
    for name, domains in losses.items():
        cells = "  ".join(
            f"{domain} {statistics.mean(seeds):.4f} ({min(seeds):.4f} to {max(seeds):.4f})"
            for domain, seeds in domains.items()
        )
        say(f"{name:>14}: {cells}")


def summary(losses: Losses, steps: int) -> dict[str, object]:
    """Losses as ratios to the static mixture's, beside the spread that its seeds alone make."""
    mean = {name: {d: statistics.mean(seeds) for d, seeds in domains.items()} for name, domains in losses.items()}
    ratios = {
        name: {domain: round(loss / mean["static"][domain], 5) for domain, loss in domains.items()}
        for name, domains in mean.items()
    }
    spread = {d: round((max(seeds) - min(seeds)) / mean["static"][d], 5) for d, seeds in losses["static"].items()}
    return {
        "benchmark": "curriculum_pays",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "steps": steps,
        "seeds": len(SEEDS),
        "loss_to_static": ratios,
        "spread_of_static": spread,
    }


def plot(losses: Losses, steps: int) -> go.Figure:
    """For each domain a mark a curriculum: the mean of the seeds, with whiskers to the lowest and the highest."""
    figure = go.Figure()
    for place, (name, domains) in enumerate(losses.items()):
        mean = [statistics.mean(seeds) for seeds in domains.values()]
        above = [max(seeds) - value for seeds, value in zip(domains.values(), mean, strict=True)]
        below = [value - min(seeds) for seeds, value in zip(domains.values(), mean, strict=True)]
        shift = (place - (len(losses) - 1) / 2) * 0.15
        figure.add_scatter(
            name=name,
            x=[number + shift for number in range(len(domains))],
            y=mean,
            error_y={"type": "data", "array": above, "arrayminus": below, "width": 6},
            mode="markers",
            marker={"size": 11},
        )
    names = list(next(iter(losses.values())))
    figure.update_layout(
        title=f"Final held-out loss after {steps} steps, equal tokens of every domain<br>"
        f"<sub>mark: mean of {len(SEEDS)} seeds; whiskers: lowest and highest</sub>",
        xaxis={"tickvals": list(range(len(names))), "ticktext": names},
        yaxis={"title": "nats per token"},
        template="plotly_white",
    )
    return figure


def say(line: str) -> None:
    print(f"curriculum_pays: {line}", flush=True)


if __name__ == "__main__":
    main()
