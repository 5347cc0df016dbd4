"""How fast are the experts, forward and backward, beside dense GEMMs of the same FLOPs?

    .venv/bin/python benchmarks/experts.py [--rounds N] [--threads N]

On a CPU: the `torch` experts, router left aside, and with the router beside transformers' `DbrxFFN`. On a GPU: one
layer of DBRX's width in bf16, 16,384 tokens: the `megablocks` experts beside the dense GEMM rate of the same run, stock
MegaBlocks with its own GEMM, transformers' experts and a plain sort and `grouped_mm`. Routing is even (expert 0, 1,
2, ... in turn) or a router's, uneven. Times are the best of N; with one thread they are its CPU seconds, which a busy
machine disturbs less. Ends with one JSON line.

Dense GEMMs of the same FLOPs are the nine products of a gated linear unit's forward and backward over tokens * top_k
rows, with one expert's weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from beside import Action, best_seconds, conditions
from torch import Tensor, nn
from transformers import DbrxConfig
from transformers.models.dbrx.modeling_dbrx import DbrxFFN

from model.block import MixtureOfExperts
from model.config import ExpertsImplementation, ModelConfig
from model.ffn_config import FFNConfig
from train.cpu import settle_in

Compute = Callable[[Tensor, Tensor, Tensor], Tensor]  # x_ND, weights_NK, experts_NK -> y_ND


class Layer(NamedTuple):
    d_model: int
    ffn: int
    tokens: int
    n_experts: int = 16
    top_k: int = 4

    @property
    def flops(self) -> int:
        return 2 * 9 * self.tokens * self.top_k * self.d_model * self.ffn


ON_CPU = [Layer(128, 256, 4096), Layer(256, 512, 4096), Layer(512, 896, 2048), Layer(1024, 1792, 4096)]
DBRX = Layer(6144, 10752, 16384)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="runs of each that the best is taken of")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="on a CPU")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settle_in()
    rounds = options.rounds
    result = {"benchmark": "experts", **conditions(), "rounds": rounds}
    if torch.cuda.is_available():
        on_gpu = [measure_on_gpu(DBRX, even, rounds) for even in (True, False)]
        print(json.dumps({**result, "cpu": None, "gpu": on_gpu}))
        return
    print("no GPU: what is asked of an H100 is left open", flush=True)
    on_cpu = [measure_on_cpu(layer, even, rounds) for layer in ON_CPU for even in (True, False)]
    print(json.dumps({**result, "cpu": on_cpu, "gpu": None}))


def measure_on_cpu(layer: Layer, even: bool, rounds: int) -> dict[str, object]:
    ours, theirs = build(layer, even, ExpertsImplementation.torch), transformers_ffn(layer)
    copy_weights(ours, theirs)
    x, routing = draw(layer, ours)
    contenders = {
        "dense": dense_gemms(layer),
        "experts": forward_backward(OutputOf(ours.experts), x, *routing),
        "plain_grouped_mm": forward_backward(PlainGroupedMM(ours.experts.mlp, layer.n_experts), x, *routing),
    }
    if not even:  # transformers knows no other routing than the router's
        contenders["ffn"] = whole_ffn(lambda x: ours(x)[0], ours, x)
        contenders["transformers_ffn"] = whole_ffn(theirs, theirs, x)
    return report(layer, even, routing[1], best_seconds(contenders, rounds))


def measure_on_gpu(layer: Layer, even: bool, rounds: int) -> dict[str, object]:
    """On one GPU, bf16. What can't be run is missing from the answer, and a line says why."""
    with torch.device("cuda"):
        ours, theirs = build(layer, even, ExpertsImplementation.megablocks), transformers_ffn(layer)
    ours.experts.to(torch.bfloat16)
    theirs.experts.to(torch.bfloat16)
    for name, weight in theirs.experts.mlp.named_parameters():
        weight.data = getattr(ours.experts.mlp, name).data
    x, routing = draw(layer, ours)
    x = x.bfloat16()
    contenders = {
        "dense": dense_gemms(layer, "cuda", torch.bfloat16),
        "experts": forward_backward(OutputOf(ours.experts), x, *routing),
        "plain_grouped_mm": forward_backward(PlainGroupedMM(ours.experts.mlp, layer.n_experts), x, *routing),
        "transformers": forward_backward(TransformersExperts(theirs.experts), x, *routing),
    }
    if importlib.util.find_spec("grouped_gemm"):
        contenders["stock_megablocks"] = forward_backward(StockMegaBlocks(layer, ours.experts.mlp), x, *routing)
    else:
        print("stock MegaBlocks needs grouped_gemm, which is not installed: its figure is left open", flush=True)
    measured = report(layer, even, routing[1], best_seconds(contenders, rounds))
    return {**measured, "host_synchronisations": waits_for_the_device(contenders["experts"])}


def report(layer: Layer, even: bool, experts_NK: Tensor, best: dict[str, float]) -> dict[str, object]:
    """Prints what was measured; returns it for the JSON line."""
    load_E = torch.bincount(experts_NK.flatten().cpu(), minlength=layer.n_experts)
    busiest = (load_E.max() / load_E.float().mean()).item()
    routing = "even" if even else f"a router's (busiest expert {busiest:.2f} times the mean)"
    print(f"\nwidth {layer.d_model}, {layer.n_experts} experts of {layer.ffn}, top {layer.top_k}, ", end="")
    print(f"{layer.tokens:,} tokens, routing {routing}")
    for name, taken in best.items():
        rate = f"{layer.flops / taken / 1e12:8.2f} TFLOP/s"
        print(f"  {name:18} {1e3 * taken:9.1f} ms {rate} {taken / best['dense']:6.3f} of dense", flush=True)
    return {
        **layer._asdict(),
        "routing": "even" if even else "router",
        "busiest_expert": round(busiest, 3),
        "ms": {name: round(1e3 * taken, 2) for name, taken in best.items()},
        "time_to_dense": {name: round(taken / best["dense"], 3) for name, taken in best.items()},
    }


def build(layer: Layer, even: bool, kind: ExpertsImplementation) -> MixtureOfExperts:
    ffn = FFNConfig(layer.ffn, moe_num_experts=layer.n_experts, moe_top_k=layer.top_k, uniform_expert_assignment=even)
    ours = MixtureOfExperts(ModelConfig(d_model=layer.d_model, ffn_config=ffn, experts=kind))
    torch.manual_seed(0)
    for parameter in ours.experts.parameters():
        nn.init.normal_(parameter, std=0.02)
    nn.init.normal_(ours.router.layer.weight, std=layer.d_model**-0.5)
    return ours


def transformers_ffn(layer: Layer) -> DbrxFFN:
    ffn = {"hidden_size": layer.d_model, "ffn_hidden_size": layer.ffn}
    ffn |= {"moe_num_experts": layer.n_experts, "moe_top_k": layer.top_k}
    return DbrxFFN(DbrxConfig(d_model=layer.d_model, ffn_config=ffn))


def copy_weights(ours: MixtureOfExperts, theirs: DbrxFFN) -> None:
    theirs.load_state_dict(ours.state_dict())


def draw(layer: Layer, ours: MixtureOfExperts) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Tokens with something in common, so that the router prefers some experts; and its weights and choices."""
    device = ours.router.layer.weight.device
    x_ND = torch.randn(layer.tokens, layer.d_model, device=device) + 0.5 * torch.randn(layer.d_model, device=device)
    with torch.no_grad():
        routing = ours.router(x_ND)
    return x_ND, (routing.weights_NK, routing.experts_NK)


def dense_gemms(layer: Layer, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Action:
    rows = layer.tokens * layer.top_k
    x, hidden = (torch.randn(rows, width, device=device, dtype=dtype) for width in (layer.d_model, layer.ffn))
    weight = torch.randn(layer.ffn, layer.d_model, device=device, dtype=dtype)

    def multiply() -> None:
        for _ in "gate", "up", "gradient of hidden":
            x @ weight.T
        for _ in "down", "gradient of x through gate", "and through up":
            hidden @ weight
        for _ in "gradients of w1", "v1", "w2":
            hidden.T @ x

    return multiply


def forward_backward(compute: Compute | nn.Module, x: Tensor, weights: Tensor, chosen: Tensor) -> Action:
    x, weights = (t.detach().clone().requires_grad_() for t in (x, weights))
    grad, inputs = torch.randn_like(x), [x, weights, *parameters_of(compute)]

    def run() -> None:
        torch.autograd.grad(compute(x, weights, chosen), inputs, grad)

    return run


def whole_ffn(compute: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Action:
    """The router included."""
    x = x.detach().clone()[None].requires_grad_()
    grad, inputs = torch.randn_like(x), [x, *module.parameters()]

    def run() -> None:
        torch.autograd.grad(compute(x), inputs, grad)

    return run


def parameters_of(compute: object) -> Iterable[nn.Parameter]:
    return compute.parameters() if isinstance(compute, nn.Module) else []


class OutputOf(nn.Module):
    """Our experts, without the count of what they have computed."""

    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        return self.experts(x_ND, weights_NK, experts_NK)[0]


class PlainGroupedMM(nn.Module):
    """What one writes first, and much like torchtitan's: sort, gather, three grouped_mm with autograd, scatter."""

    def __init__(self, mlp: nn.Module, n_experts: int) -> None:
        super().__init__()
        self.mlp, self.n_experts = mlp, n_experts

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        w1, v1, w2 = (w.view(self.n_experts, -1, w.shape[-1]) for w in (self.mlp.w1, self.mlp.v1, self.mlp.w2))
        order_S = experts_NK.flatten().argsort(stable=True)
        token_S = order_S // experts_NK.shape[1]
        counts_E = torch.zeros(self.n_experts, dtype=torch.int32, device=x_ND.device)
        counts_E.scatter_add_(0, experts_NK.flatten(), torch.ones_like(order_S, dtype=torch.int32))
        ends_E, x_SD = counts_E.cumsum(0).int(), x_ND[token_S]
        gate_SF = nn.functional.grouped_mm(x_SD, w1.transpose(1, 2), offs=ends_E)
        up_SF = nn.functional.grouped_mm(x_SD, v1.transpose(1, 2), offs=ends_E)
        out_SD = nn.functional.grouped_mm(nn.functional.silu(gate_SF) * up_SF, w2, offs=ends_E)
        weight_S = weights_NK.flatten()[order_S].to(out_SD.dtype)
        return torch.zeros_like(x_ND).index_add(0, token_S, out_SD * weight_S[:, None])


class TransformersExperts(nn.Module):
    def __init__(self, experts: nn.Module) -> None:
        super().__init__()
        self.experts = experts

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        return self.experts(x_ND[None], experts_NK, weights_NK.to(x_ND.dtype))[0]


class StockMegaBlocks(nn.Module):
    """The package's own dropless layer on its own GEMM, with our weights."""

    def __init__(self, layer: Layer, mlp: nn.Module) -> None:
        super().__init__()
        from megablocks.layers.arguments import Arguments
        from megablocks.layers.dmoe import ParallelDroplessMLP

        arguments = Arguments(
            hidden_size=layer.d_model,
            ffn_hidden_size=layer.ffn,
            moe_num_experts=layer.n_experts,
            moe_top_k=layer.top_k,
            activation_fn=nn.functional.silu,
            bias=False,
            mlp_type="glu",
            mlp_impl="grouped",
            fp16=False,
            bf16=True,
            device=torch.device("meta"),
        )
        self.layer = ParallelDroplessMLP(arguments)
        for name, weight in mlp.named_parameters():
            setattr(self.layer.mlp, name, weight)

    def forward(self, x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor) -> Tensor:
        return self.layer.forward_once(x_ND[None], weights_NK.to(x_ND.dtype), experts_NK)[0]


def waits_for_the_device(action: Action) -> int:
    """How often the CPU waited for the GPU in one run: 0, or 1 if it did, for PyTorch stops at the first."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        action()
        return 0
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        print(f"the experts waited for the device: {error}")
        return 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    main()
