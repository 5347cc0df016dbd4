"""All that is asked of the real MegaBlocks package on CPU, run by `test_megablocks_experts.py` in a fresh process.

TRITON_INTERPRET=1 python megablocks_on_cpu.py RESULTS.pt
"""

import sys
import types
from unittest import mock

import torch

from model.config import ModelConfig

import expert_cases
import expert_ranks
import triton_on_cpu
from expert_cases import CASES, Case

PACKAGE = ["uneven and empty", "one expert gets everything", "one token", "random 1"]  # cases of its own layer


def against_the_loop(case: Case, gemm: str = "auto") -> float:
    experts = expert_cases.built(case, "megablocks", gemm)
    parameters = list(experts.parameters())
    compute = expert_cases.output_of(experts)
    got = expert_cases.forward_and_gradients(compute, expert_cases.draw(case), parameters)
    return expert_cases.worst_error(got, expert_cases.expected(case, parameters))


def package_against_the_loop(case: Case) -> float:
    """The package's own layer, untouched: its constructor, its `forward_once`, its GLU."""
    from megablocks.layers.dmoe import ParallelDroplessMLP

    from model.experts.megablocks_experts import _arguments

    arguments = _arguments(case.config("megablocks"), "grouped")
    arguments.device = torch.device("cpu")
    layer = ParallelDroplessMLP(arguments)
    parameters = [layer.mlp.w1, layer.mlp.v1, layer.mlp.w2]
    expert_cases.set_weights(parameters)
    got = expert_cases.forward_and_gradients(
        lambda x, w, e: layer.forward_once(x[None], w, e)[0], expert_cases.draw(case), parameters
    )
    return expert_cases.worst_error(got, expert_cases.expected(case, parameters))


def block_sparse() -> float:
    """MegaBlocks refuses Triton 3.2 and newer for `stk`, because of how they compile it; the interpreter does not."""
    with mock.patch("triton.__version__", "3.1.0"):
        return against_the_loop(Case(20, 1, 2, n_experts=3, d_model=128, ffn=128), "stk")


def compiled_grouped_gemm() -> float:
    """A double of the compiled package: a loop over the group sizes, which it wants on the CPU as int64."""

    def gmm(a, b, batch_sizes, trans_a=False, trans_b=False, c=None):
        assert batch_sizes.dtype is torch.int64 and batch_sizes.device.type == "cpu"
        rows = a.split(batch_sizes.tolist())
        if trans_a:
            return torch.stack([x.t() @ y for x, y in zip(rows, b.split(batch_sizes.tolist()), strict=True)])
        return torch.cat([x @ (w.t() if trans_b else w) for x, w in zip(rows, b, strict=True)])

    package = types.ModuleType("grouped_gemm")
    package.__spec__ = mock.Mock()
    package.backend = types.SimpleNamespace(gmm=gmm)
    with mock.patch.dict(sys.modules, grouped_gemm=package):
        return against_the_loop(CASES["uneven and empty"], "grouped_gemm")


def bfloat16_under_autocast() -> torch.dtype:
    experts = expert_cases.output_of(expert_cases.built(CASES["even"], "megablocks"))
    x, weights, chosen, grad = expert_cases.draw(CASES["even"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = experts(x.bfloat16(), weights, chosen)
    low.backward(grad.bfloat16())
    torch.testing.assert_close(low.float(), experts(x, weights, chosen), rtol=0.05, atol=0.1)
    return low.dtype


def too_many_slots() -> str:
    experts = expert_cases.built(CASES["even"], "megablocks")
    x = torch.empty(1, 24).expand(2**26, 24)
    try:
        experts(x, torch.empty(1, 2).expand(2**26, 2), torch.zeros(1, 2, dtype=torch.int64).expand(2**26, 2))
    except ValueError as error:
        return str(error)
    return "none"


def missing_package(gemm: str) -> str:
    from model.errors import MissingPackageError
    from model.experts import build_experts

    config: ModelConfig = CASES["even"].config("megablocks", gemm)
    try:
        build_experts(config)
    except MissingPackageError as error:
        return str(error)
    return "none"


def main() -> None:
    assert "megablocks" not in sys.modules and "triton" not in sys.modules
    torch.set_num_threads(1)
    triton_on_cpu.install()
    results = {
        "cases": {name: against_the_loop(case) for name, case in CASES.items()},
        "package": {name: package_against_the_loop(CASES[name]) for name in PACKAGE},
        "ranks": {
            name: max(expert_ranks.errors_on_ranks(make("megablocks"))) for name, make in expert_ranks.RANKS.items()
        },
        "block sparse": block_sparse(),
        "compiled": compiled_grouped_gemm(),
        "bfloat16": bfloat16_under_autocast(),
        "too many": too_many_slots(),
        "missing": {gemm: missing_package(gemm) for gemm in ("grouped_gemm", "stk")},
        "names": [name for name, _ in expert_cases.built(CASES["even"], "megablocks").named_parameters()],
    }
    import megablocks.layers.moe

    results["losses kept"] = len(megablocks.layers.moe.get_load_balancing_loss())
    torch.save(results, sys.argv[1])


if __name__ == "__main__":
    main()
