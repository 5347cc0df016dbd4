"""A recipe becomes a run."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

import yaml
from composer import Callback, Trainer
from composer.utils import dist
from composer.utils.reproducibility import configure_deterministic_mode

from data.manifest import Manifest
from data.mixture.plan import Plan
from data.patience import patient
from data.words import byte_count, short
from model.flops import count_parameters
from model.initialise import initialise, materialise
from model.parts import parts_of
from train.audit.records import FOLDER
from train.build import (
    build_device,
    build_evaluators,
    build_model,
    build_train_data,
    evaluate_every,
    forbid_tf32,
)
from train.callbacks.all_in_one import AllInOne
from train.callbacks.audit import AuditRecorder
from train.callbacks.learning_rate import LearningRate
from train.callbacks.metrics_file import MetricsFile
from train.callbacks.profile import Profile
from train.callbacks.randomness import StepSeed
from train.callbacks.spikes import GoBack, SpikeGuard
from train.callbacks.step_times import StepTimes
from train.callbacks.steps import StepRecorder
from train.callbacks.stop import StopOnSignal, end_workers
from train.callbacks.watchdog import Watchdog
from train.checkpoints.checkpointer import Checkpointer
from train.checkpoints.contents import Contents, dataset_tokenizer
from train.checkpoints.loading import load_checkpoint
from train.checkpoints.names import name_of, newest_checkpoint, steps_of
from train.checkpoints.remote import CHECKPOINTS, RemoteRun, fetch_run
from train.checkpoints.verify import newest_good_checkpoint
from train.checkpoints.weights import load_weights
from train.clipping import GradientClipping
from train.console import Console
from train.counted_targets import CountTargets
from train.cpu import settle_in
from train.dashboard import Dashboard, alert
from train.events import SAVED, START, record
from train.exchange_times import timed_exchanges
from train.history import History, continue_run
from train.initial_weights import weights_to_begin_with
from train.layout import Layout
from train.optim import build_optimizer
from train.parallel import device_of_rank, parallelism, parameter_bytes, precision, shard
from train.places import Steps
from train.plan.summary import summarise
from train.reader import to_yaml
from train.recipe import Recipe
from train.run_directory import RunDirectory
from train.step_clock import StepClock
from train.temporary_folder import own_temporary_folder
from train.throughput import Throughput
from train.together import together
from train.wandb_run import WandbRun


def train(recipe: Recipe, manifest: Manifest, plan: Plan, history: History, run: RunDirectory) -> None:
    """Take the run for this process group and train it to the recipe's end.

    Raises:
        RecipeError: another process is training it.
        Stopped: a signal ended it early; it is saved.
    """
    settle_in()
    lock = run.lock() if dist.get_global_rank() == 0 else nullcontext()
    with lock, own_temporary_folder(run):
        if recipe.deterministic:
            configure_deterministic_mode()  # before anything runs on a GPU, which reads some of it once
        dist.initialize_dist(build_device(), timeout=recipe.dist_timeout)
        newest = newest_checkpoint(run.checkpoints)
        checkpoint = newest_good_checkpoint(run.checkpoints, say, fetch_again=lambda: fetch_run(recipe, run, say))
        if checkpoint != newest:  # which was damaged
            plan, history = continue_run(run, recipe, manifest)
        fit(recipe, manifest, plan, history, run, checkpoint)


def fit(
    recipe: Recipe, manifest: Manifest, plan: Plan, history: History, run: RunDirectory, checkpoint: Path | None
) -> None:
    """Train from a checkpoint of the run, or from the beginning, to the recipe's end."""
    contents = Contents(recipe.model, dataset_tokenizer(recipe.dataset, manifest))
    steps = Steps.of(recipe, run.steps_done(), history.samples)
    last_step = steps.until(recipe.end)
    console = Console(recipe.interval_steps(recipe.log_interval), last_step, plan.domains)
    if dist.get_global_rank() == 0:
        if changes := run.changes(recipe):
            record(run, "recipe changed", step=run.steps_done(), changes=[str(change) for change in changes])
        record(run, START, step=run.steps_done(), ranks=dist.get_world_size())
        run.describe(
            recipe,
            manifest,
            summarise(recipe, manifest, plan, dist.get_world_size(), say=patient(console.say), steps=steps),
        )
    if checkpoint:
        console.say(f"going on from {checkpoint}, at step {steps_of(checkpoint):,}")
    console.say(
        f"{run.path}: {last_step:,} steps of {recipe.step_tokens:,} tokens, "
        f"ranks: {dist.get_world_size()}, device: {build_device()}"
    )
    quieten()
    clock = StepClock(device_of_rank())
    with ExitStack() as at_the_end, together():
        if recipe.parallel.expert_parallel > 1:
            at_the_end.enter_context(timed_exchanges(clock))
        at_the_end.callback(end_workers)
        at_the_end.callback(console.close)
        with warnings.catch_warnings(record=True):  # Composer's, that an attribute which it asks for is old
            trainer = build_trainer(recipe, manifest, plan, history, run, checkpoint, contents, console, clock)
        at_the_end.callback(trainer.engine.close)  # not trainer.close, which waits for ranks that may be gone
        if checkpoint:
            load_checkpoint(trainer.state, checkpoint)
        train_to_the_end(trainer)
    console.done(run.path)


def train_to_the_end(trainer: Trainer) -> None:
    """Train; after each rollback, on from the checkpoint that the run went back to."""
    while True:
        try:
            return trainer.fit()
        except GoBack as back:
            checkpoint = back.checkpoint
        gc.collect()  # what read ahead ends here
        load_checkpoint(trainer.state, checkpoint)


def build_trainer(
    recipe: Recipe,
    manifest: Manifest,
    plan: Plan,
    history: History,
    run: RunDirectory,
    checkpoint: Path | None,
    contents: Contents,
    console: Console,
    clock: StepClock,
) -> Trainer:
    """Composer's trainer with everything that the recipe asks for; `checkpoint` says what it will be loaded from."""
    model = build_model(recipe, manifest, plan)
    shard(model, precision(recipe), recipe.parallel, Layout.of(recipe, dist.get_world_size()), recipe.dist_timeout)
    count = count_parameters(recipe.model)
    console.say(
        f"model: {short(count.total)} parameters, {short(count.active)} of them active in a token, "
        f"{byte_count(parameter_bytes(model))} on each rank"
    )
    materialise(model, device_of_rank())
    if weights := weights_to_begin_with(recipe):
        console.say(f"beginning with the weights in {weights}")
        load_weights(model, weights)
    elif checkpoint is None:
        initialise(model.model, recipe.model, recipe.seed)
    dashboards = open_dashboards(recipe, run)
    clipping = GradientClipping(recipe.optimizer.clip_norm, parts_of(model))
    profiles = [Profile(run.path / "profile", recipe.profile, console)] if recipe.profile.steps else []
    audits = [AuditRecorder(run.path / FOLDER, plan, recipe.global_train_batch_size)] if recipe.audit else []
    patience = 1.2 * recipe.dist_timeout  # who waits for another says so first
    watchdog = Watchdog(patience, alert=partial(alert, dashboards))
    checkpointer = Checkpointer(
        run.checkpoints,
        recipe.interval_steps(recipe.save_interval),
        recipe.retention,
        history,
        contents,
        recipe.dist_timeout,
        remote=RemoteRun.of(recipe),
        asynchronous=recipe.checkpoints.asynchronous,
        say=console.say,
        before_save=[recorder.flush for recorder in audits],
        while_waiting=watchdog.rewind,
        stall=lambda: clock.during("checkpoint"),
        saved=partial(note_save, recipe, run, dashboards),
    )
    guard = SpikeGuard(
        recipe,
        plan,
        model,
        clipping,
        checkpointer,
        run,
        console,
        alert=partial(alert, dashboards),
        before_going_back=watchdog.suspend,
    )
    recorder = StepRecorder(
        plan,
        model,
        guard,
        clipping,
        clock,
        Throughput.of(recipe, dist.get_world_size()),
        MetricsFile(run.metrics),
        dashboards,
        console,
        norm_interval=recipe.interval_steps(recipe.log_interval),
        routing_interval=recipe.interval_steps(recipe.eval_interval),
    )
    callbacks: list[Callback] = [
        CountTargets(model),
        clipping,
        *profiles,
        StepTimes(clock),
        StepSeed(recipe.seed),
        LearningRate(recipe),
        guard,
        recorder,
        *audits,
        checkpointer,
        StopOnSignal(checkpointer),
        watchdog,
    ]
    trainer = Trainer(
        model=model,
        train_dataloader=build_train_data(recipe, plan),
        eval_dataloader=build_evaluators(recipe, manifest, plan),
        eval_interval=evaluate_every(recipe.interval_steps(recipe.eval_interval)),
        max_duration=f"{recipe.end}sp",
        optimizers=build_optimizer(model, recipe.optimizer),
        callbacks=AllInOne(callbacks),
        run_name=recipe.run_name,
        dist_timeout=recipe.dist_timeout,
        parallelism_config=parallelism(),
        device=build_device(),
        precision=precision(recipe),
        device_train_microbatch_size=recipe.device_train_microbatch_size
        or recipe.global_train_batch_size // dist.get_world_size(),
        progress_bar=False,
        spin_dataloaders=False,  # the training data resumes by itself, and held-out data is the same every time
        seed=recipe.seed,
    )
    forbid_tf32(recipe)
    return trainer


def open_dashboards(recipe: Recipe, run: RunDirectory) -> list[Dashboard]:
    """Those that the recipe asks for, on rank 0. Of TensorBoard and MLflow nothing is imported unless it does."""
    if dist.get_global_rank() != 0:
        return []
    config = yaml.safe_load(to_yaml(recipe))
    dashboards: list[Dashboard] = [WandbRun(recipe, run, config)]
    if recipe.tensorboard:
        from train.tensorboard_run import TensorboardRun

        dashboards.append(TensorboardRun(run.path / "tensorboard", to_yaml(recipe)))
    if recipe.mlflow is not None:
        from train.mlflow_run import MlflowRun

        dashboards.append(MlflowRun(recipe.mlflow, recipe.run_name, run.path, config))
    return dashboards


def note_save(recipe: Recipe, run: RunDirectory, dashboards: Sequence[Dashboard], step: int, seconds: float) -> None:
    """A checkpoint is one of the run's events, and every dashboard leads to where it is kept."""
    record(run, SAVED, step=step, seconds=round(seconds, 3))
    remote, name = recipe.checkpoints.remote, name_of(step)
    address = f"{remote.rstrip('/')}/{recipe.run_name}/{CHECKPOINTS}/{name}" if remote else ""
    for dashboard in dashboards:
        dashboard.saved(address or (run.checkpoints / name).resolve().as_uri(), step)


def say(line: str) -> None:
    if dist.get_global_rank() == 0:
        print(f"train: {line}", flush=True)


def quieten() -> None:
    """Keep warnings that its user can do nothing about off the console."""
    warnings.filterwarnings("ignore")
    for name in ("composer", "streaming", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
