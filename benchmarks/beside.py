"""Timing things beside one another on one machine, so that their ratio means something."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
# Python looks for modules beside the script first, where `model.py` would hide the package `model`. So this module is
# imported before that package.
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != HERE]

Action = Callable[[], object]


def best_seconds(contenders: dict[str, Action], rounds: int) -> dict[str, float]:
    """The shortest of `rounds` runs of each, taken in turn, so that whatever else the machine does hits all alike."""
    for action in contenders.values():
        seconds(action)
    taken = [{name: seconds(action) for name, action in contenders.items()} for _ in range(rounds)]
    return {name: min(one[name] for one in taken) for name in contenders}


def seconds(action: Action) -> float:
    """Of one run, the device's work included. One thread's are those that it had the core, so that others cost less."""
    clock = time.process_time if clock_name() == "cpu" else time.perf_counter
    synchronise()
    began = clock()
    action()
    synchronise()
    return clock() - began


def clock_name() -> str:
    return "wall" if torch.cuda.is_available() or torch.get_num_threads() > 1 else "cpu"


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    return f"{name}, {os.cpu_count()} cores{gpu}, torch {torch.__version__}"


def conditions() -> dict[str, object]:
    """What the figures depend on; `load` is how many processes wanted a core in the last minute. Printed, too."""
    said: dict[str, object] = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "clock": clock_name(),
        "load": round(os.getloadavg()[0], 2),
    }
    print(", ".join(f"{key}: {value}" for key, value in said.items()), flush=True)
    return said
