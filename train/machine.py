"""What a recipe asks of the machine that it is trained on."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator

from model.config import AttentionImplementation, ExpertsImplementation
from train.recipe import Recipe
from train.schema import Problem

SAY_OTHERWISE = {
    "model.attn_implementation": "flash_attention_2 needs a GPU, and there is none; expected sdpa or eager",
    "model.experts": "megablocks needs a GPU, and there is none; expected auto or torch",
    "precision": "bf16 needs a GPU, and there is none; expected fp32",
}


def machine_problems(recipe: Recipe) -> Iterator[Problem]:
    """What this machine does not have. Asked before training only: a plan can be looked at anywhere."""
    flash = recipe.model.attn_implementation is AttentionImplementation.flash_attention_2
    if flash and importlib.util.find_spec("flash_attn") is None:
        sentence = "flash_attention_2 needs the flash-attn package, which is not installed; expected sdpa or eager"
        yield "model.attn_implementation", sentence
        return
    wanted = gpu_keys(recipe)
    if (wanted or recipe.parallel.compile) and not has_gpu():
        yield from ((key, SAY_OTHERWISE[key]) for key in wanted)
        if recipe.parallel.compile:
            yield from compiler_problems()


def gpu_keys(recipe: Recipe) -> list[str]:
    """The keys whose values only a GPU can serve."""
    keys = {
        "model.attn_implementation": recipe.model.attn_implementation is AttentionImplementation.flash_attention_2,
        "model.experts": recipe.model.experts is ExpertsImplementation.megablocks,
        "precision": recipe.precision == "bf16",  # Composer trains in it on GPUs only
    }
    return [key for key, on_gpu_only in keys.items() if on_gpu_only]


def has_gpu() -> bool:
    import torch  # two seconds, which other recipes need not wait for

    return torch.cuda.device_count() > 0  # unlike is_available, it can be asked before ranks are forked


def compiler_problems() -> Iterator[Problem]:
    """On a CPU torch.compile writes C++; it takes the compiler that CXX names, or g++."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        expected = "on a CPU torch.compile needs a C++ compiler, and there is no"
        yield "parallel.compile", f"{expected} {compiler} here (the variable CXX names another); expected false"
