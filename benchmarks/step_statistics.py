"""What do the statistics of every step cost? Loss and tokens by domain, routing by layer, domain and expert, the
experts' health, their reduction over the ranks, and the marks of the step's clock, against the optimizer step that they
are taken of.

    .venv/bin/python benchmarks/step_statistics.py [KEY=VALUE ...]

Takes the demo's model and the first batch of its run (`make demo` prepares the dataset); KEY=VALUE sets keys of its
recipe. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from beside import seconds
from composer.utils import dist

from data.mixture.plan import Plan
from model.composer_model import Batch, DbrxComposerModel
from model.initialise import initialise, materialise
from model.statistics import microbatch_statistics
from train.build import build_device, build_model, build_train_data, widen
from train.callbacks.routing import RoutingSum
from train.callbacks.statistics import sum_over_ranks
from train.curriculum.build import build_plan
from train.inputs import read_run
from train.moe_health import moe_health
from train.optim import build_optimizer
from train.recipe import Recipe
from train.step_clock import PARTS, StepClock

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path("yamls/demo/pretrain.yaml")
STEPS, TIMES = 15, 200  # that the medians are taken of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the recipe")
    options = parser.parse_args()
    os.chdir(ROOT)
    recipe, manifest = read_run(RECIPE, ["dataset.num_workers=0", *options.overrides])
    plan = build_plan(recipe, manifest)
    dist.initialize_dist(build_device())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(recipe, manifest, plan)
    materialise(model, device)
    initialise(model.model, recipe.model, recipe.seed)
    batch = first_batch(recipe, plan, device)
    step = median_seconds(training_step(model, recipe, batch), STEPS)
    taken = median_seconds(step_statistics(model, batch), TIMES)
    print(
        json.dumps(
            {
                "benchmark": "step_statistics",
                "ratio": round(taken / step, 6),
                "statistics_ms": round(1e3 * taken, 3),
                "step_ms": round(1e3 * step, 3),
                "tokens": batch["tokens"].numel(),
                "layers": recipe.model.n_moe_layers,
                "domains": len(plan.domains),
                "experts": recipe.model.ffn_config.moe_num_experts,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


def first_batch(recipe: Recipe, plan: Plan, device: torch.device) -> Batch:
    batch = next(iter(build_train_data(recipe, plan).dataloader))
    return widen({name: values.to(device) for name, values in batch.items()})


def training_step(model: DbrxComposerModel, recipe: Recipe, batch: Batch) -> Callable[[], None]:
    """Forward, loss, backward and the optimizer, of one microbatch."""
    optimizer = build_optimizer(model, recipe.optimizer)

    def step() -> None:
        model.begin_step()
        model.loss(model(batch), batch)["total"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_statistics(model: DbrxComposerModel, batch: Batch) -> Callable[[], None]:
    """All that is done for them in a step: count, add up, reduce, hand to the model, add to the routing's; and time."""
    outputs = model(batch)
    load_balancing = model.losses(outputs, batch)["load_balancing"].detach()
    routing = RoutingSum()
    clock = StepClock(batch["tokens"].device)

    def take() -> None:
        model.begin_step()
        seen = microbatch_statistics(outputs, batch["domain"], len(model.domains), load_balancing)
        summed = sum_over_ranks(seen)
        model.finish_step(summed)
        routing.add(summed.tokens_by_layer_domain_expert)
        moe_health(summed, model.config.ffn_config.moe_top_k)
        for part in PARTS:
            clock.mark(part)
        clock.take()

    return take


def median_seconds(action: Callable[[], None], times: int) -> float:
    """Of one call, after two to warm up."""
    return statistics.median([seconds(action) for _ in range(times + 2)][2:])


if __name__ == "__main__":
    main()
