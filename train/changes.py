"""A recipe that has changed since a run was last started: which changes may be, must be asked for, or can't be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from train.reader import to_yaml
from train.schema import has_key

# Keys that may differ when a run goes on. The future of the curriculum is one of them: train/history.py holds its past.
FREE_KEYS = (
    "run_root",
    "max_duration",
    "global_train_batch_size",
    "device_train_microbatch_size",
    "save_interval",
    "eval_interval",
    "eval_samples",
    "device_eval_batch_size",
    "log_interval",
    "dataset.path",
    "dataset.remote",
    "dataset.tokenizer",
    "dataset.cache_limit",
    "dataset.num_workers",
    "dataset.predownload",
    "dataset.planned_tokens",
    "checkpoints",
    "deterministic",
    "dist_timeout",
    "parallel",
    "on_spike",
    "resume",
    "scheduler.decay",
    "scheduler.decay_shape",
    "model.attn_implementation",
    "wandb",
    "tensorboard",
    "mlflow",
    "profile",
    "audit",
    "curriculum.anchors",
    "curriculum.groups",
    "curriculum.max_epochs",
    "curriculum.when_used_up",
    "curriculum.normalise_weights",
)

# Keys of the model that decide which weights there are, and which of them belongs to what.
OF_SHAPE = {
    "d_model", "n_heads", "n_layers", "vocab_size", "tie_word_embeddings", "attn_config.kv_n_heads",
    "ffn_config.ffn_hidden_size", "ffn_config.moe_num_experts", "ffn_config.first_k_dense_replace",
}  # fmt: skip

# Keys that can't be allowed, and why.
FIXED_KEYS = {
    **{f"model.{key}": "the weights in the checkpoints have that shape" for key in OF_SHAPE},
    "model.ffn_config.dense_ffn_hidden_size": "the weights in the checkpoints have that shape",
    "model.ffn_config.moe_loss_scope": "it decides what the checkpoints hold",
    "max_seq_len": "the run counts samples of that length",
    "curriculum.seed": "the order of the samples so far follows from it",
}
BIAS = "model.ffn_config.moe_bias_update_rate"


@dataclass(frozen=True)
class Change:
    """A leaf of the recipe that has another value now."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before!r} -> {self.now!r}"

    @property
    def free(self) -> bool:
        return self.under(FREE_KEYS)

    @property
    def impossible(self) -> str:
        """Why it can't be allowed; empty if it can."""
        if self.key == BIAS and None in (self.before, self.now):
            return "it decides what the checkpoints hold"
        return next((why for key, why in FIXED_KEYS.items() if within(self.key, key)), "")

    def under(self, keys: Sequence[str]) -> bool:
        """Whether one of these keys is its own, or one that it lies under."""
        return any(within(self.key, key) for key in keys)


def within(key: str, outer: str) -> bool:
    return key == outer or key.startswith((f"{outer}.", f"{outer}["))


def changes(schema: type, before: Any, now: Any) -> list[Change]:
    """What differs between two recipes as plain data.

    Recipes are written out with every default, so a key that the older one lacks came to Brickyard since, and stood at
    its default in spirit. One that the schema no longer knows is nobody's any more.
    """
    with_defaults = filled(before, yaml.safe_load(to_yaml(schema)))
    return [Change(*each) for each in differences(with_defaults, now) if has_key(schema, each[0])]


def filled(given: Any, defaults: Any) -> Any:
    """Plain data with what it lacks taken from defaults."""
    if not isinstance(given, dict) or not isinstance(defaults, dict):
        return given
    return {**defaults, **{key: filled(value, defaults.get(key)) for key, value in given.items()}}


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, before, now) of every leaf in which two plain structures differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from differences(*pair, f"{path}[{index}]")
    elif before != now:
        yield path, before, now


def refusal(found: Sequence[Change], allowed: Sequence[str]) -> str:
    """What to say of those that are neither free nor allowed, each in a line of its own; empty if there are none."""
    fixed = [change for change in found if change.impossible]
    asked = [change for change in found if not (change.free or change.impossible or change.under(allowed))]
    if not fixed and not asked:
        return ""
    lines = [f"  {change}{f'  (for good: {change.impossible})' if change in fixed else ''}" for change in fixed + asked]
    lines += [f"  {change}  (free)" for change in found if change not in fixed + asked]
    names = ", ".join(change.key for change in asked)
    allow = f", allow what is meant (resume: {{allow: [{names}]}})" if asked and not fixed else ""
    return "\n".join(["it would go on as another run (was -> is now):", *lines, f"undo that{allow}"])
