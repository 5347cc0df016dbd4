"""Is the memory that `brickyard plan` predicts for a rank what it takes?

    .venv/bin/python benchmarks/memory.py [--case NAME]

Each case trains a model of made-up weights for two steps on 1, 2 or 4 ranks (forked, gloo), as `brickyard train` shards
it and with its optimizer, and measures by how much a rank's resident memory grows at its peak over what it held before.
Routing is uniform, as the prediction takes it. Prints measured / predicted for the rank that takes the most, and ends
with one JSON line. On a CPU only: the figures for GPUs are null until they are measured on one.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from beside import conditions

from model.config import AttentionConfig, ModelConfig
from model.ffn_config import FFNConfig
from train.layout import Layout
from train.memory.moments import moments
from train.memory.work import Work
from train.recipe import OptimizerConfig, ParallelConfig

GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}  # what is freed, at once
WEIGHTS = ModelConfig(  # most of the memory is parameters
    d_model=512,
    n_heads=8,
    n_layers=6,
    max_seq_len=512,
    vocab_size=8192,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
    ffn_config=FFNConfig(ffn_hidden_size=768, moe_num_experts=8, moe_top_k=2, uniform_expert_assignment=True),
)
ACTIVATIONS = replace(  # most of it is activations
    WEIGHTS,
    d_model=256,
    max_seq_len=2048,
    ffn_config=replace(WEIGHTS.ffn_config, ffn_hidden_size=512),
)
STEPS = 2  # in the second one, the optimizer has its state from the beginning


@dataclass(frozen=True)
class Case:
    model: ModelConfig
    ranks: int
    samples: int  # of a microbatch
    microbatches: int = 1
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    @property
    def layout(self) -> Layout:
        replicate, ep = self.parallel.data_parallel_replicate, self.parallel.expert_parallel
        return Layout(replicate, self.ranks // replicate // ep, ep)

    @property
    def work(self) -> Work:
        length = self.model.max_seq_len
        return Work(self.model, self.parallel, self.layout, self.samples, length, self.microbatches, 4, gpu=False)


CHECKPOINTED, EP_2 = ParallelConfig(activation_checkpointing=True), ParallelConfig(expert_parallel=2)
BOTH = ParallelConfig(expert_parallel=2, activation_checkpointing=True)
CASES = {
    "weights, 1 rank": Case(WEIGHTS, 1, 2),
    "weights, 2 ranks": Case(WEIGHTS, 2, 2),
    "weights, 2 ranks, ep 2": Case(WEIGHTS, 2, 2, parallel=EP_2),
    "weights, 4 ranks, ep 2": Case(WEIGHTS, 4, 1, parallel=EP_2),
    "weights, 4 ranks, 2 replicas": Case(WEIGHTS, 4, 1, parallel=ParallelConfig(data_parallel_replicate=2)),
    "weights, 2 ranks, 2 microbatches": Case(WEIGHTS, 2, 1, 2),
    "activations, 1 rank": Case(ACTIVATIONS, 1, 4),
    "activations, 1 rank, checkpointed": Case(ACTIVATIONS, 1, 4, parallel=CHECKPOINTED),
    "activations, 2 ranks": Case(ACTIVATIONS, 2, 4),
    "activations, 2 ranks, ep 2": Case(ACTIVATIONS, 2, 4, parallel=EP_2),
    "activations, 2 ranks, ep 2, checkpointed": Case(ACTIVATIONS, 2, 4, parallel=BOTH),
}


def main() -> None:
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **GIVEN_BACK, "OMP_NUM_THREADS": "1"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be given again")
    options = parser.parse_args()
    said = conditions()
    results = {name: compare(name, CASES[name]) for name in options.case or CASES}
    ratios = [result["ratio"] for result in results.values()]
    furthest = max(ratios, key=lambda ratio: abs(ratio - 1))
    print(f"measured / predicted: {min(ratios)} to {max(ratios)}")
    print(json.dumps({"benchmark": "memory", "furthest_ratio": furthest, "cases": results, "gpu": None, **said}))


def compare(name: str, case: Case) -> dict[str, object]:
    import torch.multiprocessing as mp

    import train.parallel  # noqa: F401  # for the ranks, which are forked from here

    worst = max(moments(case.work), key=lambda moment: moment.total)
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(measure, args=(case, Path(folder)), nprocs=case.ranks, start_method="fork")
        peaks = [int((Path(folder) / f"{rank}.peak").read_text()) for rank in range(case.ranks)]
    ratio = round(max(peaks) / worst.total, 3)
    print(
        f"{name}: measured {max(peaks) / 1e6:.0f} MB, predicted {worst.total / 1e6:.0f} MB ({worst.name}): {ratio}",
        flush=True,
    )
    return {"ratio": ratio, "measured": max(peaks), "predicted": worst.total, "moment": worst.name}


def measure(rank: int, case: Case, folder: Path) -> None:
    """On one rank: once small, for what the libraries keep for themselves, then as it is."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    ranks = case.ranks
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    small = replace(case.model, d_model=64, n_heads=8, n_layers=1, vocab_size=64, max_seq_len=32)
    train_steps(replace(case, model=small))
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the most since then, begins anew
    before = status_bytes("VmRSS")
    train_steps(case)
    (folder / f"{rank}.peak").write_text(str(status_bytes("VmHWM") - before))
    dist.destroy_process_group()


def train_steps(case: Case) -> None:
    """Two optimizer steps of a model as `brickyard train` builds it."""
    import torch
    from composer.core import Precision

    from model.composer_model import DbrxComposerModel
    from model.initialise import initialise, materialise
    from train.optim import build_optimizer
    from train.parallel import shard

    config = case.model
    model = DbrxComposerModel(config, ["web"], end_of_text=0, device="meta")
    shard(model, Precision.FP32, case.parallel, case.layout)
    materialise(model, "cpu")
    initialise(model.model, config, 0)
    optimizer = build_optimizer(model, OptimizerConfig())
    for _ in range(STEPS):
        for _ in range(case.microbatches):
            tokens = torch.randint(1, config.vocab_size, (case.samples, config.max_seq_len))
            batch = {"tokens": tokens, "domain": torch.zeros(case.samples, dtype=torch.int64)}
            outputs = model(batch)
            model.loss(outputs, batch)["total"].backward()
        del outputs
        optimizer.step()
        optimizer.zero_grad()


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
