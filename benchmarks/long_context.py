"""What does a context of 32,768 tokens cost in memory, before and after?

    .venv/bin/python benchmarks/long_context.py [--tokens N] [--layers L] [--width D]

Two pairs: the loss head with all logits of a vocabulary of 100,352 and chunk by chunk, on as many tokens as the former
allow; and a training step (forward, loss, backward) of one sample without and with activation checkpointing by block.
The sample has documents of 2,000 tokens, apart; with --across attention runs across them, which takes the same memory
and on a CPU many times as long. Each case is a process of its own; what is measured is the growth of its memory at its
peak over what it held before: resident on a CPU, allocated on a GPU. Prints ratios and ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from beside import machine

VOCABULARY, HEAD_TOKENS, DOCUMENT = 100_352, 4096, 2000
GIB = 2**30
CASES = {
    "head, all logits": "the loss head as projection and cross_entropy",
    "head, chunked": "the same tokens through model/head.py",
    "step, all activations": "one training step of the model",
    "step, checkpointed": "with parallel.activation_checkpointing",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_768, help="of the sample (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="d_model, a multiple of 64 (default: %(default)s)")
    parser.add_argument("--across", action="store_true", help="attend across documents")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options)))
        return
    print(f"machine: {machine()}")
    seen = {case: run_case(case, options) for case in CASES}
    results = {
        "benchmark": "long_context",
        "head_ratio": ratio(seen, "head, all logits", "head, chunked"),
        "activations_ratio": ratio(seen, "step, all activations", "step, checkpointed"),
        "peak_gib": {case: round(result["peak_bytes"] / GIB, 3) for case, result in seen.items()},
        "processor_seconds": {case: round(result["seconds"], 1) for case, result in seen.items()},
        "logits_of_the_step_gib": round(options.tokens * VOCABULARY * 4 / GIB, 2),  # never held
        "tokens": {"head": HEAD_TOKENS, "step": options.tokens},
        "vocabulary": VOCABULARY,
        "documents": "across" if options.across else f"of {DOCUMENT} tokens, apart",
        "layers": options.layers,
        "d_model": options.width,
        "device": seen["head, chunked"]["device"],
        "machine": machine(),
    }
    print(f"head: all logits take {results['head_ratio']} times the memory of chunks")
    print(f"step: all activations take {results['activations_ratio']} times the memory of checkpointed blocks")
    print(json.dumps(results))


def ratio(seen: dict, before: str, after: str) -> float:
    return round(seen[before]["peak_bytes"] / seen[after]["peak_bytes"], 2)


def run_case(case: str, options: argparse.Namespace) -> dict:
    print(f"{case}: {CASES[case]} ...", flush=True)
    sizes = [f"--{name}={getattr(options, name)}" for name in ("tokens", "layers", "width")]
    sizes += ["--across"] if options.across else []
    # Whatever is freed is given back at once, or resident memory would not be what is held.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
    child = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--case", case, *sizes],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(child.stdout.splitlines()[-1])
    print(
        f"{case}: {result['peak_bytes'] / GIB:.2f} GiB at the peak, {result['seconds']:.0f} s of processor time",
        flush=True,
    )
    return result


def measure(case: str, options: argparse.Namespace) -> dict:
    """Runs a case once small, for what the libraries keep for themselves, and once to measure."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build = build_head if case.startswith("head") else build_step
    build(case, 256, options, device)()
    action = build(case, options.tokens, options, device)
    peak_since_now = gpu_peak() if device.type == "cuda" else resident_peak()
    began = time.process_time()
    action()
    peak = peak_since_now()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return {"peak_bytes": peak, "seconds": time.process_time() - began, "device": name}


def gpu_peak() -> Callable[[], int]:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - before


def resident_peak() -> Callable[[], int]:
    """VmRSS is the memory now, VmHWM the most since it was last reset, which Linux does on a 5 here."""
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    return lambda: status_bytes("VmHWM") - before


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def build_head(case: str, tokens: int, options: argparse.Namespace, device) -> Callable[[], None]:
    import torch

    from model.head import LanguageModelHead

    tokens = min(tokens, HEAD_TOKENS)
    head = LanguageModelHead(options.width, VOCABULARY).to(device)
    x = torch.randn(1, tokens, options.width, device=device, requires_grad=True)
    targets = torch.randint(VOCABULARY, (1, tokens), device=device)

    def all_logits() -> None:
        torch.nn.functional.cross_entropy(head(x).flatten(0, 1).float(), targets.flatten()).backward()

    def chunked() -> None:
        head(x, targets).mean.backward()

    return all_logits if case == "head, all logits" else chunked


def build_step(case: str, tokens: int, options: argparse.Namespace, device) -> Callable[[], None]:
    """Forward, loss and backward of a model as `brickyard train` builds it."""
    import torch
    from composer.core import Precision
    from composer.utils import dist

    from model.composer_model import DbrxComposerModel
    from model.config import AttentionConfig, ModelConfig
    from model.ffn_config import FFNConfig
    from model.initialise import initialise, materialise
    from train.build import build_device
    from train.parallel import shard
    from train.recipe import ParallelConfig

    dist.initialize_dist(build_device())
    config = ModelConfig(
        d_model=options.width,
        n_heads=options.width // 64,
        n_layers=options.layers,
        max_seq_len=tokens,
        vocab_size=VOCABULARY,
        attn_config=AttentionConfig(clip_qkv=8.0, rope_theta=500_000.0),
        ffn_config=FFNConfig(ffn_hidden_size=options.width, moe_num_experts=16, moe_top_k=4),
        attend_across_documents=options.across,
    )
    model = DbrxComposerModel(config, ["web"], end_of_text=0, device="meta")
    precision = Precision.AMP_BF16 if device.type == "cuda" else Precision.FP32
    shard(model, precision, ParallelConfig(activation_checkpointing="checkpointed" in case))
    materialise(model, device)
    initialise(model.model, config, 0)
    sample = torch.randint(1, VOCABULARY, (1, tokens), device=device)
    sample[:, DOCUMENT::DOCUMENT] = 0
    batch = {"tokens": sample, "domain": torch.zeros(1, dtype=torch.int64, device=device)}

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            outputs = model(batch)
        model.loss(outputs, batch)["total"].backward()

    return step


if __name__ == "__main__":
    main()
