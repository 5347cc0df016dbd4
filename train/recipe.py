"""The recipe of a training run: every key, its type, its default and what it may hold.

Nothing heavy is imported here, so that a bad recipe is refused in a moment.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from data.manifest import Manifest
from data.mixture.times import parse_time
from model.config import PARTS, AttentionImplementation, ModelConfig
from train.cache import cache_limit_problems, parse_size
from train.checkpoints.retention import Retention
from train.curriculum.config import CurriculumConfig, domain_problems
from train.schema import Problem, has_key, nearest
from train.times import readable_time, time_problems

LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255, and names are made of it
MOST_SAMPLES = 2**40  # of a run


@dataclass
class DatasetConfig:
    """The prepared dataset to read."""

    path: str  # a folder that `brickyard prepare` wrote; with `remote`, the folder that caches it
    remote: str | None = None  # a copy of such a folder (s3://..., gs://..., a path) that shards are fetched from
    tokenizer: str | None = None  # refuse the dataset unless its tokenizer has this name
    num_workers: int = 1  # dataloader worker processes for each rank
    predownload: int | None = None  # samples that each worker fetches ahead; null: 512, and 8 batches at least
    cache_limit: str | None = None  # such as 200gb: training shards on one machine; the oldest are deleted; null: none
    # Training tokens that each domain is to have, such as {web: 8Ttok}: while `path` holds no manifest,
    # `brickyard plan` counts with these.
    planned_tokens: dict[str, str] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        if self.remote is not None and self.remote.rstrip("/") in ("", self.path.rstrip("/")):
            yield "remote", f"expected another place than dataset.path, found {self.remote!r}"
        yield from cache_limit_problems(self.cache_limit, self.remote)
        if self.num_workers < 0:
            yield "num_workers", f"expected 0 or more, found {self.num_workers}"
        if self.predownload is not None and self.predownload < 1:
            yield "predownload", f"expected 1 or more, found {self.predownload}"
        for domain, tokens in self.planned_tokens.items():
            if not readable_time(tokens) or parse_time(tokens).unit != "tok" or not parse_time(tokens).value:
                yield f"planned_tokens.{domain}", f"expected a number of tokens such as 1.5Ttok, found {tokens}"

    @property
    def cache_bytes(self) -> int | None:
        return None if self.cache_limit is None else parse_size(self.cache_limit)


@dataclass
class OptimizerConfig:
    """AdamW with decoupled weight decay (Loshchilov and Hutter 2019)."""

    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    undecayed: list[str] = field(default_factory=lambda: ["norms"])  # parts of the model that are left out of it
    clip_norm: float | None = 1.0  # gradients are scaled down to this norm over all parameters

    def problems(self) -> Iterator[Problem]:
        for name in ("lr", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                yield name, f"expected a number above 0, found {getattr(self, name)}"
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                yield name, f"expected a number from 0 up to, not including, 1, found {getattr(self, name)}"
        if not 0 <= self.weight_decay < math.inf:
            yield "weight_decay", f"expected 0 or more, found {self.weight_decay}"
        for number, part in enumerate(self.undecayed):
            if part not in PARTS:
                yield f"undecayed[{number}]", f"expected one of {', '.join(PARTS)}, found {part}{nearest(part, PARTS)}"
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            yield "clip_norm", f"expected a number above 0, or null for no clipping, found {self.clip_norm}"


@dataclass
class SchedulerConfig:
    """The learning rate over training: a linear warmup, then the named way down to `final` of the peak.

    wsd (warmup, stable, decay; arXiv 2405.18392) stays at the peak until `decay` before the run's end.
    """

    name: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup: str = "0ba"
    final: float = 0.1
    decay: str = "0.1dur"  # of wsd: how long it takes; the run can be made longer as long as it has not begun
    decay_shape: Literal["linear", "cosine", "one_minus_sqrt"] = "one_minus_sqrt"  # of wsd

    def problems(self) -> Iterator[Problem]:
        yield from time_problems("warmup", self.warmup)
        yield from time_problems("decay", self.decay, positive=True)
        if not 0 <= self.final <= 1:
            yield "final", f"expected a share of the peak from 0 to 1, found {self.final}"


@dataclass
class ParallelConfig:
    """How a step is spread over ranks and fitted into their memory. None of it changes what is learned."""

    data_parallel_shard: int | None = None  # ranks that share out one copy of the model; null: all of them
    data_parallel_replicate: int = 1  # such groups of ranks, each with a copy of its own (HSDP)
    expert_parallel: int = 1  # of data_parallel_shard: ranks that share out the experts and send each other tokens
    reshard_after_forward: bool = True  # drop a block's gathered weights after its forward; gather again going backward
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"  # in which gradients are summed over ranks, with precision bf16
    activation_checkpointing: bool = False  # keep each block's input only and compute the rest again going backward
    compile: bool = False  # torch.compile the attention half of each block; the first step then takes a minute

    def problems(self) -> Iterator[Problem]:
        for name in ("data_parallel_shard", "data_parallel_replicate", "expert_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                yield name, f"expected 1 or more, found {value}"


@dataclass
class CheckpointConfig:
    """How checkpoints are written, and which of them stay."""

    asynchronous: bool = True  # a step waits for a copy in memory only; false: until its checkpoint is on the disk
    keep_last: int = 2  # the newest this many stay on disk
    keep_every: str | None = None  # such as 10_000ba: those of every so many steps stay for ever; null: none

    remote: str | None = None  # such as s3://bucket/runs: whole ones are also copied to REMOTE/RUN_NAME

    def problems(self) -> Iterator[Problem]:
        if self.remote is not None and "://" not in self.remote:
            yield "remote", f"expected an address such as s3://bucket/runs or file:///backup/runs, found {self.remote}"
        if self.keep_last < 1:
            yield "keep_last", f"expected 1 or more, found {self.keep_last}"
        if self.keep_every is not None:
            yield from time_problems("keep_every", self.keep_every, positive=True)


@dataclass
class SpikeConfig:
    """What becomes of a step whose loss stands out, or is no number: that is known before its update is made.

    `skip_batch` drops the update. `rollback` goes back to a checkpoint and on from there, but learns nothing of the
    steps around the spike when it comes to them; before the first checkpoint it does as `skip_batch`.
    """

    action: Literal["warn", "skip_batch", "rollback", "stop"] = "warn"  # on a loss that stands out
    non_finite: Literal["skip_batch", "rollback", "stop"] = "stop"  # on a loss or gradient norm that is no number
    threshold: float = 6.0  # spreads above the loss to expect: standard deviations, as measured without the outliers
    window: int = 128  # steps that the loss to expect is taken from
    min_history: int = 64  # steps before which no finite loss stands out
    max_in_a_row: int = 3  # batches skipped one after the other, and rollbacks to one checkpoint; then the run stops
    skip_before: int = 8  # steps before the spike that a rollback passes over
    skip_after: int = 8  # steps after it

    def problems(self) -> Iterator[Problem]:
        if not 0 < self.threshold < math.inf:
            yield "threshold", f"expected a number above 0, found {self.threshold}"
        for name in ("window", "min_history", "max_in_a_row"):
            if getattr(self, name) < 1:
                yield name, f"expected 1 or more, found {getattr(self, name)}"
        for name in ("skip_before", "skip_after"):
            if getattr(self, name) < 0:
                yield name, f"expected 0 or more, found {getattr(self, name)}"
        if self.min_history > self.window:
            yield "min_history", f"expected at most window ({self.window}), found {self.min_history}"


@dataclass
class ResumeConfig:
    """What may be another than before when a run goes on, beside what always may."""

    allow: list[str] = field(default_factory=list)  # keys, such as optimizer.lr, or groups of them, such as optimizer


@dataclass
class ProfileConfig:
    """A trace of a few steps and a table of where their time went, under RUN/profile."""

    steps: int = 0  # that are traced; 0: none
    skip: int = 10  # steps after each start of the run that come before, the last of which warms the profiler up

    def problems(self) -> Iterator[Problem]:
        if self.steps < 0:
            yield "steps", f"expected 0 or more, found {self.steps}"
        if self.skip < 1:
            yield "skip", f"expected 1 or more, found {self.skip}"


@dataclass
class WandbConfig:
    """Weights & Biases. Offline runs are written under the run directory; `wandb sync` sends them later."""

    mode: Literal["auto", "offline", "online", "disabled"] = "auto"  # auto: WANDB_MODE, else online if it has a key
    project: str = "brickyard"
    entity: str | None = None
    group: str | None = None
    job_type: str = "pretrain"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None  # shown with the run; Markdown


@dataclass
class MlflowConfig:
    """MLflow, beside or in place of W&B."""

    experiment: str = "brickyard"
    # Such as http://host:5000; null: what MLFLOW_TRACKING_URI says, or else files under the run directory.
    tracking_uri: str | None = None


@dataclass
class Recipe:
    """A training run."""

    run_name: str
    max_duration: str
    global_train_batch_size: int  # samples of one optimizer step, over all ranks
    max_seq_len: int  # tokens of a sample
    dataset: DatasetConfig
    curriculum: CurriculumConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    run_root: str = "runs"
    initial_weights: str | None = None  # a checkpoint, an imported one, or a run's folder; null: drawn from the seed
    seed: int = 17  # of the initial weights, dropout and router jitter
    device_train_microbatch_size: int | None = None  # samples a rank works on at once; null: all of its share
    save_interval: str = "1000ba"
    eval_interval: str = "1000ba"
    eval_samples: int | None = None  # of each domain's held-out samples, the first so many; null: all of them
    device_eval_batch_size: int | None = None  # samples a rank evaluates at once; null: as many as it trains on
    log_interval: str = "10ba"  # between lines on the console
    audit: bool = False  # record what the model reads, for `brickyard audit`
    precision: Literal["fp32", "bf16"] = "fp32"
    deterministic: bool = False  # the same bits every time on a GPU too, by slower kernels; a CPU gives them anyway
    dist_timeout: float = 600.0  # seconds without progress after which a rank ends, saying where it was
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_spike: SpikeConfig = field(default_factory=SpikeConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    tensorboard: bool = False  # also write event files into RUN/tensorboard
    mlflow: MlflowConfig | None = None  # {}: also log to MLflow; null: don't
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def problems(self) -> Iterator[Problem]:
        if not is_plain_name(self.run_name):
            expected = f"expected a plain folder name of at most {LONGEST_NAME} bytes"
            yield "run_name", f"{expected}, found {self.run_name!r}"
        for name in ("global_train_batch_size", "max_seq_len"):
            if getattr(self, name) < 1:
                yield name, f"expected 1 or more, found {getattr(self, name)}"
        if self.max_seq_len == 1:
            yield "max_seq_len", "expected 2 or more: with one token there is none to predict"
        if not 0 < self.dist_timeout < 10**9:
            yield "dist_timeout", f"expected a number of seconds above 0, found {self.dist_timeout}"
        if not 0 <= self.seed < 2**32:
            yield "seed", f"expected a number from 0 to 2^32 - 1, found {self.seed}"
        for index, key in enumerate(self.resume.allow):
            if not has_key(Recipe, key):
                yield f"resume.allow[{index}]", f"expected a key of the recipe, found {key!r}"
        yield from self._time_problems()
        yield from self._size_problems()
        yield from self._keep_every_problems()
        yield from self._schedule_problems()
        yield from self._batch_problems()
        yield from self._anchor_order_problems()
        flash = self.model.attn_implementation is AttentionImplementation.flash_attention_2
        if flash and self.precision == "fp32":
            yield "model.attn_implementation", "flash_attention_2 has no fp32: expected precision bf16, found fp32"
        experts = self.model.ffn_config.moe_num_experts
        if self.parallel.expert_parallel > 1 and experts % self.parallel.expert_parallel:
            expected = f"expected a divisor of model.ffn_config.moe_num_experts ({experts})"
            yield "parallel.expert_parallel", f"{expected}, found {self.parallel.expert_parallel}"
        if self.parallel.reduce_dtype == "bf16" and self.precision == "fp32":
            yield "parallel.reduce_dtype", "expected fp32, as precision says, found bf16"
        if self.model.max_seq_len < self.max_seq_len:
            expected = f"expected at least max_seq_len ({self.max_seq_len})"
            yield "model.max_seq_len", f"{expected}, found {self.model.max_seq_len}"

    def _time_problems(self) -> Iterator[Problem]:
        yield from time_problems("max_duration", self.max_duration, positive=True, dur=False)
        for name in ("save_interval", "eval_interval", "log_interval"):
            yield from time_problems(name, getattr(self, name), positive=True, dur=True)

    def _size_problems(self) -> Iterator[Problem]:
        if self.global_train_batch_size >= 1 and self._countable(self.max_duration) and self.end > MOST_SAMPLES:
            most = f"expected at most {MOST_SAMPLES:,} samples of {self.max_seq_len:,} tokens in whole steps"
            yield "max_duration", f"{most}, found {self.max_duration} in steps of {self.global_train_batch_size:,}"

    def _keep_every_problems(self) -> Iterator[Problem]:
        times = (self.checkpoints.keep_every or "1ba", self.save_interval, self.max_duration)
        if self.global_train_batch_size < 1 or self.max_seq_len < 1 or not all(map(readable_time, times)):
            return
        every, steps = self.keep_every_steps, self.interval_steps(self.save_interval)
        if every is not None and every % steps:
            expected = f"expected a multiple of save_interval ({steps} steps)"
            yield "checkpoints.keep_every", f"{expected}, found {self.checkpoints.keep_every} ({every} steps)"

    def _schedule_problems(self) -> Iterator[Problem]:
        times = [self.max_duration, self.scheduler.warmup, self.scheduler.decay]
        if self.scheduler.name != "wsd" or not self._countable(*times):
            return
        duration, warmup, decay = map(self._exact_samples, times)
        if warmup + decay > duration:
            rest = f"expected a decay that fits into the run ({self.max_duration}) after its warmup"
            yield "scheduler.decay", f"{rest} ({self.scheduler.warmup}), found {self.scheduler.decay}"

    def _batch_problems(self) -> Iterator[Problem]:
        for name in ("eval_samples", "device_eval_batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                yield name, f"expected 1 or more, or null, found {number}"
        micro = self.device_train_microbatch_size
        if micro is not None and micro < 1:
            yield "device_train_microbatch_size", f"expected 1 or more, found {micro}"
        elif micro is not None and self.global_train_batch_size % micro:
            expected = f"expected a divisor of global_train_batch_size ({self.global_train_batch_size})"
            yield "device_train_microbatch_size", f"{expected}, found {micro}"

    def _anchor_order_problems(self) -> Iterator[Problem]:
        anchors = self.curriculum.anchors
        if not self._countable(self.max_duration, *(anchor.at for anchor in anchors)):
            return
        places = [self.samples(anchor.at) for anchor in anchors]
        for index, (before, place) in enumerate(itertools.pairwise(places)):
            if place <= before:
                yield (
                    f"curriculum.anchors[{index + 1}].at",
                    f"expected a time after the anchor before, found {anchors[index + 1].at}",
                )

    def _countable(self, *times: str) -> bool:
        """Whether times can be turned into samples; what can't has a problem of its own."""
        return self.max_seq_len >= 1 and all(map(readable_time, times))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; max_duration is rounded up to whole steps."""
        return math.ceil(self._exact_samples(self.max_duration) / self.global_train_batch_size)

    @property
    def end(self) -> int:
        """Samples of the whole run."""
        return self.steps * self.global_train_batch_size

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.global_train_batch_size * self.max_seq_len

    def samples(self, text: str) -> int:
        """A time in whole samples (to the nearest)."""
        return round(self._exact_samples(text))

    def interval_steps(self, text: str) -> int:
        """An interval in whole steps, at least one."""
        return max(1, round(self._exact_samples(text) / self.global_train_batch_size))

    @property
    def keep_every_steps(self) -> int | None:
        """Steps between checkpoints that stay for ever."""
        every = self.checkpoints.keep_every
        return None if every is None else self.interval_steps(every)

    @property
    def retention(self) -> Retention:
        """Which checkpoints stay."""
        return Retention(self.checkpoints.keep_last, self.keep_every_steps)

    def _exact_samples(self, text: str) -> Fraction:
        time = parse_time(text)
        if time.unit == "dur":
            return time.value * self._exact_samples(self.max_duration)
        return time.to_samples(max_seq_len=self.max_seq_len, batch_size=self.global_train_batch_size)


def is_plain_name(name: str) -> bool:
    """Whether it can be that of a folder, and be read in a line."""
    return name.isprintable() and "/" not in name and 0 < len(os.fsencode(name)) <= LONGEST_NAME and name[0] != "."


def dataset_problems(recipe: Recipe, manifest: Manifest) -> Iterator[Problem]:
    """What the recipe asks of the dataset and the dataset does not have."""
    if recipe.max_seq_len != manifest.max_seq_len:
        expected = f"expected {manifest.max_seq_len}, the length of the samples in {recipe.dataset.path}"
        yield "max_seq_len", f"{expected}, found {recipe.max_seq_len}"
    tokenizer = manifest.tokenizer
    if recipe.dataset.tokenizer not in (None, tokenizer.name):
        expected = f"expected {tokenizer.name}, which {recipe.dataset.path} was tokenized with"
        yield "dataset.tokenizer", f"{expected}, found {recipe.dataset.tokenizer}"
    if recipe.model.vocab_size < tokenizer.vocab_size:
        expected = f"expected at least {tokenizer.vocab_size}, the tokens of {tokenizer.name}"
        yield "model.vocab_size", f"{expected}, found {recipe.model.vocab_size}"
    for key, sentence in domain_problems(recipe.curriculum, manifest, recipe.dataset.path):
        yield f"curriculum.{key}", sentence
