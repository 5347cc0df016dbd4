"""What does AdamW cost on sharded parameters: ours, and torch's own with its fused kernel, its loops over lists, its
plain loop?

    .venv/bin/python benchmarks/optimizer.py [KEY=VALUE ...]

Takes the model of the demo's recipe, sharded on one rank; KEY=VALUE sets keys of it. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from beside import best_seconds, conditions
from composer.utils import dist
from torch.optim import AdamW

from model.composer_model import DbrxComposerModel
from model.initialise import initialise, materialise
from model.parts import parts_of
from train.build import build_device
from train.clipping import square_sums
from train.optim import build_optimizer
from train.parallel import device_of_rank, precision, shard
from train.reader import RecipeSource, read_recipe
from train.recipe import Recipe
from train.update_norms import update_norms

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path("yamls/demo/pretrain.yaml")
TORCH = {"fused": (True, None), "foreach": (None, True), "single": (None, False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="set a key of the recipe")
    options = parser.parse_args()
    os.chdir(ROOT)
    said = conditions()
    recipe = read_recipe(Recipe, RecipeSource(RECIPE, tuple(options.overrides)))
    dist.initialize_dist(build_device())
    model = DbrxComposerModel(recipe.model, ["web"], 0, device="meta")
    shard(model, precision(recipe))
    materialise(model, device_of_rank())
    initialise(model.model, recipe.model, recipe.seed)
    for parameter in model.parameters():
        parameter.grad = parameter.detach().clone()
    parts = parts_of(model)
    ours = build_optimizer(model, recipe.optimizer)
    ours.step()
    actions = {"ours": ours.step}
    for name, (fused, foreach) in TORCH.items():
        groups = [{"params": parameters} for parameters in parts.values()]
        actions[name] = AdamW(groups, lr=recipe.optimizer.lr, fused=fused, foreach=foreach).step
    actions["gradient norms"] = lambda: square_sums([p.grad for p in part] for part in parts.values())
    actions["update norms"] = lambda: update_norms(parts, ours)
    taken = best_seconds(actions, rounds=8)
    result = {"benchmark": "optimizer", **said, "ms": {name: round(1e3 * t, 2) for name, t in taken.items()}}
    print(json.dumps({**result, "to_ours": {name: round(t / taken["ours"], 3) for name, t in taken.items()}}))


if __name__ == "__main__":
    main()
