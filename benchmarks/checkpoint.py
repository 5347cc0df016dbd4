"""What does a checkpoint cost a run? How long a step waits for a save, against the save's own time; and how long a run
that goes on takes to its first step, against the steps that it has done.

    .venv/bin/python benchmarks/checkpoint.py stall [MILLION_PARAMETERS]
    .venv/bin/python benchmarks/checkpoint.py resume

`stall` saves a model of that size (100) with its optimizer, asynchronously as a run does, and trains it meanwhile.
`resume` starts the demo's recipe at a small size from checkpoints that differ in nothing but the steps done (`make
demo` prepares the dataset). Each ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import beside
import torch
import torch.distributed as dist
from composer.core import Precision

from model.composer_model import DbrxComposerModel
from model.config import ModelConfig
from model.ffn_config import FFNConfig
from model.flops import count_parameters
from model.initialise import initialise, materialise
from train.checkpoints.saving import CopyTensors, Saving
from train.checkpoints.tensors import HostCopy, tensors_of
from train.checkpoints.writing import Snapshot, write_checkpoint
from train.optim import build_optimizer
from train.parallel import device_of_rank, shard
from train.recipe import OptimizerConfig

ROOT = Path(__file__).resolve().parent.parent
SAVES = 6  # the first, which takes the memory for the copy, is said apart
FEW, MANY = 20, 2000  # steps done
STARTS = 5  # of each, that the median is taken of


Action = beside.Action


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["stall", "resume"])
    parser.add_argument("millions", metavar="MILLION_PARAMETERS", nargs="?", type=int, default=100)
    options = parser.parse_args()
    os.chdir(ROOT)
    said = beside.conditions()
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        found = stall(Path(folder), options.millions) if options.what == "stall" else resume(Path(folder))
    print(json.dumps({"benchmark": f"checkpoint_{options.what}", **found, **said}))


def stall(folder: Path, millions: int) -> dict[str, object]:
    """Seconds that training waits (before the save is begun, and before an update for what is copied), and seconds
    until the checkpoint is on the disk, while training goes on."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    model, optimizer, config = build(millions)
    parameters = count_parameters(config).total
    tokens = torch.arange(256, device=device_of_rank())[None] % config.vocab_size

    def step(may_update: Action = lambda: None) -> None:
        model.model(tokens, tokens).token_loss.mean.backward()
        may_update()
        optimizer.step()
        optimizer.zero_grad()

    step()
    copies, steps = HostCopy(), []
    waited: list[float] = []
    saved: list[float] = []
    for number in range(SAVES):
        stall, save = save_beside(step, number, model, optimizer, copies, folder, steps)
        waited.append(stall)
        saved.append(save)
    alone = [seconds_of(step) for _ in range(max(5, len(steps) // SAVES))]
    share = [wait / save for wait, save in zip(waited, saved, strict=True)][1:]
    ratio = statistics.median(share)
    print(f"{parameters / 1e6:.0f} M parameters, {12 * parameters / 1e9:.2f} GB: a step waits {ratio:.1%} of a save")
    return {
        "ratio": round(ratio, 4),
        "least": round(min(share), 4),
        "most": round(max(share), 4),
        "first_ratio": round(waited[0] / saved[0], 4),
        "stall_seconds": round(statistics.median(waited[1:]), 3),
        "save_seconds": round(statistics.median(saved[1:]), 3),
        "bytes": 12 * parameters,
        "step_beside_a_save_over_step_alone": round(statistics.median(steps) / statistics.median(alone), 3),
    }


def save_beside(
    step: Callable[[Action], None],
    number: int,
    model: DbrxComposerModel,
    optimizer: torch.optim.Optimizer,
    copies: HostCopy,
    folder: Path,
    steps: list[float],
) -> tuple[float, float]:
    """Seconds that training has waited for a save, and those until it was on the disk; adds each step's to `steps`."""
    group = dist.new_group(backend="gloo")
    ended: list[float] = []

    def save(copied: CopyTensors) -> None:
        write_checkpoint(folder / "checkpoints", Snapshot(number, tensors, copied, lambda checkpoint: None), group)
        ended.append(time.perf_counter())

    began = time.perf_counter()
    tensors = tensors_of(model, optimizer)
    saving = Saving(number, copies.of(tensors), save)
    stalls = [time.perf_counter() - began]
    steps.append(seconds_of(lambda: step(lambda: stalls.append(seconds_of(saving.wait_for_copy)))))
    while not ended:
        steps.append(seconds_of(lambda: step(lambda: None)))
    assert saving.wait_together(None) is None
    shutil.rmtree(folder / "checkpoints")
    return sum(stalls), ended[0] - began


def build(millions: int) -> tuple[DbrxComposerModel, torch.optim.Optimizer, ModelConfig]:
    layers = max(1, round(millions / 12.9))
    experts = FFNConfig(ffn_hidden_size=512, moe_num_experts=16, moe_top_k=2)
    config = ModelConfig(d_model=512, n_heads=8, n_layers=layers, vocab_size=1024, ffn_config=experts)
    model = DbrxComposerModel(config, ["web"], 0, device="meta")
    shard(model, Precision.FP32)
    materialise(model, device_of_rank())
    initialise(model.model, config, 1)
    return model, build_optimizer(model, OptimizerConfig()), config


def seconds_of(action: Action) -> float:
    """By the clock on the wall: what another thread takes is what is asked."""
    beside.synchronise()
    began = time.perf_counter()
    action()
    beside.synchronise()
    return time.perf_counter() - began


def resume(folder: Path) -> dict[str, object]:
    """Seconds from the start of the command to the first step's row, after FEW and after MANY steps."""
    runs = {steps: run_of(folder, steps) for steps in (FEW, MANY)}
    taken: dict[int, list[float]] = {steps: [] for steps in runs}
    for _ in range(STARTS):
        for steps, run in runs.items():
            taken[steps].append(seconds_to_first_step(run, steps))
    medians = {steps: statistics.median(times) for steps, times in taken.items()}
    ratio = medians[MANY] / medians[FEW]
    print(f"first step after {FEW} steps done: {medians[FEW]:.2f} s; after {MANY}: {medians[MANY]:.2f} s")
    return {"ratio": round(ratio, 4), **{f"seconds_after_{steps}": round(medians[steps], 3) for steps in medians}}


def command(run: Path, steps: int) -> list[str]:
    small = ["model.d_model=32", "model.n_heads=4", "model.n_layers=1", "model.ffn_config.ffn_hidden_size=32"]
    small += ["model.attn_config.kv_n_heads=2", "global_train_batch_size=2", "device_train_microbatch_size=1"]
    small += ["wandb.mode=disabled", "dataset.num_workers=0", "log_interval=1000ba", "eval_interval=1000000ba"]
    small += [f"run_root={run.parent}", f"run_name={run.name}", f"max_duration={steps}ba", "save_interval=1000000ba"]
    return [sys.executable, "-m", "launch", "train", "yamls/demo/pretrain.yaml", *small]


def run_of(folder: Path, steps: int) -> Path:
    print(f"training {steps} steps", flush=True)
    run = folder / f"steps-{steps}"
    subprocess.run(command(run, steps), check=True, stdout=subprocess.DEVNULL)
    return run


def seconds_to_first_step(run: Path, steps: int) -> float:
    """Goes on in a copy of the run, and ends it there."""
    with copied(run) as copy:
        metrics = copy / "metrics.jsonl"
        before = metrics.stat().st_size
        began = time.perf_counter()
        process = subprocess.Popen([*command(copy, steps + 50), "resume.allow=[run_name]"], stdout=subprocess.DEVNULL)
        while metrics.stat().st_size == before:
            assert process.poll() is None, "the run ended"
            time.sleep(0.005)
        taken = time.perf_counter() - began
        process.kill()
        process.wait()
    return taken


@contextmanager
def copied(run: Path) -> Iterator[Path]:
    copy = run.with_name(f"{run.name}-again")
    shutil.copytree(run, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
