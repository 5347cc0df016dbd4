"""What does a whole step of the model cost, forward, loss and backward, beside its matrix products alone?

    .venv/bin/python benchmarks/model.py [--rounds N] [--threads N]

On a CPU: a small DBRX beside transformers' `DbrxForCausalLM` with the same weights, and beside the sum of its GEMMs
(projections, router, experts and head; attention's own products are left out of the sum). On a GPU: one block of DBRX's
width in bf16 over 8 samples of 2,048 tokens, forward and backward, as a share of the GPU's peak. Times are the best of
N; with one thread they are its CPU seconds, which a busy machine disturbs less. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json

import torch
from beside import Action, best_seconds, conditions
from transformers import DbrxConfig
from transformers import DbrxForCausalLM as TransformersDbrx

from model.block import Block
from model.config import AttentionConfig, ExpertsImplementation, ModelConfig
from model.dbrx import DbrxForCausalLM
from model.ffn_config import FFNConfig
from model.flops import count_parameters
from model.head import IGNORED
from model.router import load_balancing_loss
from train.cpu import settle_in

SMALL = ModelConfig(
    d_model=256,
    n_heads=8,
    n_layers=4,
    max_seq_len=512,
    vocab_size=8192,
    attn_config=AttentionConfig(kv_n_heads=2, clip_qkv=8.0, rope_theta=500_000.0),
    ffn_config=FFNConfig(ffn_hidden_size=448, moe_num_experts=16, moe_top_k=4),
    experts=ExpertsImplementation.torch,
)
SAMPLES = 4
DBRX = ModelConfig(
    d_model=6144,
    n_heads=48,
    n_layers=1,
    max_seq_len=2048,
    attn_config=AttentionConfig(kv_n_heads=8, clip_qkv=8.0, rope_theta=500_000.0),
    ffn_config=FFNConfig(ffn_hidden_size=10752, moe_num_experts=16, moe_top_k=4),
    experts=ExpertsImplementation.megablocks,
)
GPU_SAMPLES = 8
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12}  # dense bf16 FLOP/s, from NVIDIA's data sheets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each that the best is taken of")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settle_in()
    result = {"benchmark": "model", **conditions(), "rounds": options.rounds}
    if torch.cuda.is_available():
        print(json.dumps({**result, "cpu": None, "gpu": block_on_gpu(options.rounds)}))
        return
    print("no GPU: what is asked of an H100 is left open", flush=True)
    print(json.dumps({**result, "cpu": model_on_cpu(options.rounds), "gpu": None}))


def model_on_cpu(rounds: int) -> dict[str, object]:
    tokens = torch.randint(SMALL.vocab_size, (SAMPLES, SMALL.max_seq_len), generator=torch.Generator().manual_seed(0))
    ours = DbrxForCausalLM(SMALL)
    theirs = TransformersDbrx(transformers_config(SMALL))
    theirs.load_state_dict(ours.state_dict())
    contenders = {"gemms": gemms(SMALL, tokens.numel()), "model": step(ours, tokens)}
    contenders["transformers"] = transformers_step(theirs, tokens)
    best = best_seconds(contenders, rounds)
    for name, taken in best.items():
        print(f"  {name:14} {1e3 * taken:9.1f} ms {taken / best['gemms']:6.3f} of the sum of GEMMs", flush=True)
    return {
        "tokens": tokens.numel(),
        "parameters": count_parameters(SMALL).total,
        "ms": {name: round(1e3 * taken, 1) for name, taken in best.items()},
        "time_to_gemms": {name: round(taken / best["gemms"], 3) for name, taken in best.items()},
        "time_to_transformers": round(best["model"] / best["transformers"], 3),
    }


def block_on_gpu(rounds: int) -> dict[str, object]:
    with torch.device("cuda"):
        block = Block(DBRX, 0)
        for name, parameter in block.named_parameters():
            torch.nn.init.ones_(parameter) if "norm_1" in name or "norm_2" in name else parameter.data.normal_(0, 0.02)
        x = torch.randn(GPU_SAMPLES, DBRX.max_seq_len, DBRX.d_model, dtype=torch.bfloat16, requires_grad=True)
    block.to(torch.bfloat16)
    grad, inputs = torch.randn_like(x), [x, *block.parameters()]
    seconds = best_seconds({"block": lambda: torch.autograd.grad(block(x)[0], inputs, grad)}, rounds)["block"]
    rate = block_flops(DBRX, GPU_SAMPLES) / seconds
    peak = next((value for name, value in PEAKS.items() if name in torch.cuda.get_device_name()), None)
    share = None if peak is None else round(rate / peak, 3)
    print(f"  block {1e3 * seconds:.1f} ms, {rate / 1e12:.0f} TFLOP/s, {share} of peak", flush=True)
    return {"block_ms": round(1e3 * seconds, 2), "tflops": round(rate / 1e12, 1), "share_of_peak": share}


def block_flops(config: ModelConfig, samples: int) -> int:
    """Forward and backward of one block, causal attention counted as half: see `model.flops`."""
    count = count_parameters(config)
    products = count.attention + count.router + count.active_experts
    context = (config.max_seq_len + 1) // 2
    return 6 * samples * config.max_seq_len * (products + 2 * config.d_model * context)


def step(model: DbrxForCausalLM, tokens: torch.Tensor) -> Action:
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = IGNORED

    def run() -> None:
        output = model(tokens, targets)
        assert output.token_loss is not None
        (output.token_loss.mean + 0.01 * load_balancing_loss(output.routings)).backward()
        model.zero_grad()

    return run


def transformers_step(model: TransformersDbrx, tokens: torch.Tensor) -> Action:
    def run() -> None:
        model(tokens, labels=tokens, output_router_logits=True).loss.backward()
        model.zero_grad()

    return run


def gemms(config: ModelConfig, tokens: int) -> Action:
    """Each matrix product of the step, as often as there are layers, with its two products of the backward pass."""
    D, ffn = config.d_model, config.ffn_config
    wide, rows = D + 2 * config.attn_config.kv_n_heads * config.head_dim, tokens * ffn.moe_top_k
    layer = [(tokens, D, wide), (tokens, D, D), (tokens, D, ffn.moe_num_experts)]
    layer += [(rows, D, ffn.ffn_hidden_size), (rows, D, ffn.ffn_hidden_size), (rows, ffn.ffn_hidden_size, D)]
    shapes = [*layer * config.n_layers, (tokens, D, config.vocab_size)]
    operands = {(a, b, c): [torch.randn(size) for size in ((a, b), (b, c), (c, a))] for a, b, c in shapes}

    def multiply() -> None:
        for shape in shapes:
            x_ND, weight_DF, grad_FN = operands[shape]
            x_ND @ weight_DF
            weight_DF @ grad_FN
            grad_FN @ x_ND

    return multiply


def transformers_config(config: ModelConfig) -> DbrxConfig:
    attention, ffn = config.attn_config, config.ffn_config
    return DbrxConfig(
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_layers=config.n_layers,
        max_seq_len=config.max_seq_len,
        vocab_size=config.vocab_size,
        attn_config={
            "clip_qkv": attention.clip_qkv,
            "kv_n_heads": attention.kv_n_heads,
            "rope_theta": attention.rope_theta,
        },
        ffn_config={
            "hidden_size": config.d_model,
            "ffn_hidden_size": ffn.ffn_hidden_size,
            "moe_num_experts": ffn.moe_num_experts,
            "moe_top_k": ffn.moe_top_k,
        },
        attn_implementation="sdpa",
        use_cache=False,
    )


if __name__ == "__main__":
    main()
