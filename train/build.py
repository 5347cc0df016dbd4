"""The parts of a run, each built from the recipe by one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer import DataSpec, Evaluator, Event, State, Time
from composer.utils import dist
from torch.utils.data import DataLoader, Dataset

from data.manifest import Manifest, folder_of
from data.mixture.loader import CurriculumLoader
from data.mixture.plan import Plan
from data.mixture.prepared import PreparedDataset
from data.mixture.stream import CurriculumDataset
from model.composer_model import DbrxComposerModel
from model.errors import MissingPackageError
from train.callbacks.stop import leave_to_parent
from train.errors import RecipeError
from train.recipe import DatasetConfig, Recipe


def build_model(recipe: Recipe, manifest: Manifest, plan: Plan) -> DbrxComposerModel:
    """The model on the meta device, where it takes no memory.

    Raises RecipeError if the recipe asks for a package that is not installed.
    """
    try:
        return DbrxComposerModel(recipe.model, plan.domains, manifest.tokenizer.end_of_text, device="meta")
    except MissingPackageError as error:
        raise RecipeError(f"model.{error}") from None


def build_train_data(recipe: Recipe, plan: Plan) -> DataSpec:
    """The curriculum's samples, in the plan's order, this rank's share of each global batch."""
    device_batch_size = recipe.global_train_batch_size // dist.get_world_size()
    folders, remotes = places(recipe.dataset, plan.domains, "train")
    dataset = CurriculumDataset(
        plan,
        folders,
        device_batch_size,
        remotes=remotes,
        predownload=recipe.dataset.predownload,
        cache_limit=recipe.dataset.cache_bytes,
    )
    return data_spec(CurriculumLoader(dataset, recipe.dataset.num_workers, worker_init_fn=leave_to_parent))


def build_evaluators(recipe: Recipe, manifest: Manifest, plan: Plan) -> list[Evaluator]:
    """One for each domain of the curriculum that has held-out samples."""
    device_batch_size = (
        recipe.device_eval_batch_size
        or recipe.device_train_microbatch_size
        or recipe.global_train_batch_size // dist.get_world_size()
    )
    evaluators = []
    for number, domain in enumerate(plan.domains):
        if not manifest.domains[domain].splits["heldout"].samples:
            continue
        prepared = PreparedDataset(*places(recipe.dataset, [domain], "heldout"), batch_size=1)
        dataset = HeldoutDataset(prepared, number, recipe.eval_samples)
        sampler = dist.get_sampler(dataset, drop_last=False, shuffle=False)
        loader = DataLoader(dataset, batch_size=device_batch_size, sampler=sampler)
        evaluators.append(Evaluator(label=domain, dataloader=data_spec(loader), metric_names=["loss"]))
    return evaluators


def places(dataset: DatasetConfig, domains: Sequence[str], split: str) -> tuple[list[Path], list[str] | None]:
    """Each domain's folder, and where its shards are fetched from, if that is anywhere."""
    folders = [Path(dataset.path) / folder_of(domain, split) for domain in domains]
    if dataset.remote is None:
        return folders, None
    return folders, [f"{dataset.remote.rstrip('/')}/{folder_of(domain, split)}" for domain in domains]


class HeldoutDataset(Dataset):
    """The held-out samples of one domain, at most `limit` of them, in the order in which they lie (documents are
    shuffled there); shards come through Streaming as needed."""

    def __init__(self, samples: PreparedDataset, domain: int, limit: int | None) -> None:
        self.samples = samples
        self.domain = domain
        self.limit = limit

    def __len__(self) -> int:
        return self.samples.size if self.limit is None else min(self.limit, self.samples.size)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": self.samples[index]["tokens"].astype(np.int64), "domain": self.domain}


def data_spec(loader: DataLoader) -> DataSpec:
    return DataSpec(
        loader,
        microbatch_transforms=widen,
        get_num_samples_in_batch=lambda batch: len(batch["tokens"]),
        get_num_tokens_in_batch=lambda batch: batch["tokens"].numel(),
    )


def widen(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The microbatch, which is on its device by now, with the int64 tokens that the model takes."""
    return {**batch, "tokens": batch["tokens"].to(torch.int64)}


def evaluate_every(interval: int) -> Callable[[State, Event], bool]:
    """Evaluate after every `interval` steps and after the last one, before that step's checkpoint is saved."""

    def due(state: State, event: Event) -> bool:
        assert state.max_duration is not None
        finished = state.timestamp >= Time.from_input(state.max_duration)
        return event == Event.BATCH_END and (finished or state.timestamp.batch.value % interval == 0)

    return due


def build_device() -> str:
    return "gpu" if torch.cuda.is_available() else "cpu"


def forbid_tf32(recipe: Recipe) -> None:
    """Composer's trainer lets a GPU round what goes into fp32 products to TF32. Where the recipe says bf16, those that
    stay in fp32 are those that must not be rounded: the router's."""
    if recipe.precision != "fp32":
        torch.backends.cuda.matmul.allow_tf32 = False
