"""One training run on every layout of ranks, for `test_layouts.py`, in a process of its own: the real MegaBlocks needs
Triton's interpreter, which must be chosen before anything imports Triton.

TRITON_INTERPRET=1 python layouts.py RESULTS_FOLDER
"""

import gc
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from composer import Callback, Logger, State, Trainer
from composer.core import Precision
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from model.composer_model import DbrxComposerModel
from model.config import AttentionConfig, ExpertsImplementation, ModelConfig
from model.ffn_config import FFNConfig, LossScope
from model.initialise import initialise, materialise
from model.parts import parts_of
from train.build import data_spec
from train.callbacks.statistics import sum_over_ranks
from train.clipping import GradientClipping
from train.counted_targets import CountTargets
from train.layout import Layout
from train.optim import build_optimizer
from train.parallel import parallelism, shard
from train.recipe import OptimizerConfig, ParallelConfig

BATCH, VOCABULARY = 8, 40
SEED = 7
LONG = 20
# Triton's interpreter takes seconds for a step of a hundred tokens. With MEGABLOCKS_STEPS=20 every layout is LONG.
STEPS = {"torch": LONG, "megablocks": int(os.environ.get("MEGABLOCKS_STEPS", "2"))}
TOKENS = {"torch": 12, "megablocks": 3}
OPTIMIZER = OptimizerConfig(lr=1e-3, clip_norm=0.5)


@dataclass(frozen=True)
class Case:
    """Frozen, and so the name of its results."""

    kind: str
    layout: Layout
    microbatches: int = 1
    activation_checkpointing: bool = False
    reshard_after_forward: bool = True
    long: bool = False

    @property
    def steps(self) -> int:
        return LONG if self.long else STEPS[self.kind]

    @property
    def reference(self) -> "Case":
        """The same training on one rank."""
        return Case(self.kind, Layout(1, 1, 1), long=self.long)

    def __str__(self) -> str:
        name = f"{self.kind}-{self.layout.replicate}x{self.layout.efsdp}x{self.layout.ep}-{self.microbatches}"
        return (
            name
            + "-again" * self.activation_checkpointing
            + "-kept" * (not self.reshard_after_forward)
            + "-long" * self.long
        )


LAYOUTS = {
    1: [Layout(1, 1, 1)],
    2: [Layout(1, 2, 1), Layout(1, 1, 2), Layout(2, 1, 1)],
    4: [Layout(1, 4, 1), Layout(1, 2, 2), Layout(1, 1, 4), Layout(2, 2, 1), Layout(2, 1, 2), Layout(4, 1, 1)],
}
CASES = {
    ranks: [Case(kind, layout, count) for kind in STEPS for layout in layouts for count in (1, 2)]
    for ranks, layouts in LAYOUTS.items()
}
CASES[4] += [
    Case("torch", Layout(1, 2, 2), 2, activation_checkpointing=True),
    Case("torch", Layout(2, 1, 2), 1, activation_checkpointing=True),
    Case("torch", Layout(1, 2, 2), 1, reshard_after_forward=False),
    Case("megablocks", Layout(1, 2, 2), 2, long=True),
    Case("megablocks", Layout(2, 1, 2), 1, long=True),
]
CASES[1] += [Case("megablocks", Layout(1, 1, 1), long=True)]


def model_config(kind: str) -> ModelConfig:
    ffn = FFNConfig(
        ffn_hidden_size=32,
        moe_num_experts=4,
        moe_top_k=2,
        moe_loss_scope=LossScope.global_batch,
        moe_zloss_weight=0.01,
    )
    return ModelConfig(
        d_model=16,
        n_heads=4,
        n_layers=1,  # the workshop's runs, and those of the soak, have two
        max_seq_len=TOKENS[kind],
        vocab_size=VOCABULARY,
        attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0),
        ffn_config=ffn,
        experts=ExpertsImplementation[kind],
    )


def samples(kind: str, steps: int) -> list[dict[str, Any]]:
    """Those of a run. They are padded, each from another token on, so that microbatches and ranks hold
    different numbers of targets."""
    generator, T = torch.Generator().manual_seed(11), TOKENS[kind]
    tokens = torch.randint(1, VOCABULARY, (steps * BATCH, T), generator=generator)
    length = torch.randint(2, T + 1, (steps * BATCH, 1), generator=generator)
    tokens[torch.arange(T).expand_as(tokens) >= length] = 0
    return [{"tokens": row.numpy(), "domain": number % 2} for number, row in enumerate(tokens)]


class Share(IterableDataset):
    """A rank's samples, in order; iterable, because Composer wants a sampler that it knows for any other."""

    def __init__(self, samples: list[dict[str, Any]]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.samples)


class Gradients(Callback):
    """Keeps the weight gradients of the first step, whole, before they are clipped."""

    def __init__(self) -> None:
        self.whole: dict[str, Tensor] = {}

    def after_train_batch(self, state: State, logger: Logger) -> None:
        self.whole = self.whole or {
            plain(name): parameter.grad.full_tensor().clone() for name, parameter in state.model.named_parameters()
        }


class Losses(Callback):
    """Keeps what a run reports of each step."""

    def __init__(self, model: DbrxComposerModel, clipping: GradientClipping) -> None:
        self.model, self.clipping = model, clipping
        self.rows: list[dict[str, float]] = []

    def batch_start(self, state: State, logger: Logger) -> None:
        self.model.begin_step()

    def batch_end(self, state: State, logger: Logger) -> None:
        statistics = sum_over_ranks(self.model.step_statistics)
        self.model.finish_step(statistics)
        by_domain = statistics.loss_sum_by_domain / statistics.tokens_by_domain
        losses = {name: float(loss) for name, loss in self.model.step_losses(statistics).items()}
        domains = {f"domain {number}": float(loss) for number, loss in enumerate(by_domain)}
        self.rows.append({**losses, **domains, "gradient_norm": self.clipping.norm})


def run(case: Case) -> dict[str, Any]:
    """Train on the layout; returns the first step's gradients, each step's losses and the last weights, all whole."""
    config, ranks, rank = model_config(case.kind), case.layout.ranks, dist.get_rank()
    model = DbrxComposerModel(config, ["a", "b"], end_of_text=0, device="meta")
    parallel = ParallelConfig(
        activation_checkpointing=case.activation_checkpointing, reshard_after_forward=case.reshard_after_forward
    )
    shard(model, Precision.FP32, parallel, case.layout)
    materialise(model, "cpu")
    initialise(model.model, config, SEED)
    share = BATCH // ranks
    mine = [sample for number, sample in enumerate(samples(case.kind, case.steps)) if number % BATCH // share == rank]
    clipping, gradients = GradientClipping(OPTIMIZER.clip_norm, parts_of(model)), Gradients()
    losses = Losses(model, clipping)
    trainer = Trainer(
        model=model,
        train_dataloader=data_spec(DataLoader(Share(mine), batch_size=share)),
        max_duration=f"{case.steps}ba",
        optimizers=build_optimizer(model, OPTIMIZER),
        callbacks=[CountTargets(model), gradients, clipping, losses],
        parallelism_config=parallelism(),
        device="cpu",
        device_train_microbatch_size=share // case.microbatches,
        progress_bar=False,
        seed=1,
    )
    trainer.fit()
    trainer.close()
    weights = {plain(name): parameter.detach().full_tensor() for name, parameter in model.named_parameters()}
    return {"gradients": gradients.whole, "rows": losses.rows, "weights": weights}


def plain(name: str) -> str:
    return name.replace("_checkpoint_wrapped_module.", "")


def rank_of_world(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "NODE_RANK": 0}
    os.environ.update({name: str(number) for name, number in names.items()})
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=dist.FileStore(str(folder / "store"), ranks))
    for case in CASES[ranks]:
        began = time.monotonic()
        result = run(case)
        if rank == 0:
            torch.save(result, folder / f"{case}.pt")
            print(f"{case}: {time.monotonic() - began:.1f} s", flush=True)
    dist.destroy_process_group()


def main(folder: Path) -> None:
    import known_cpu  # noqa: F401

    import triton_on_cpu  # beside the model's tests

    triton_on_cpu.install()
    gc.freeze()  # or each run's ranks look through all that was imported
    for ranks in CASES:
        (folder / "store").unlink(missing_ok=True)
        mp.start_processes(rank_of_world, args=(ranks, folder), nprocs=ranks, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
