"""The real MegaBlocks package against a plain fp64 loop, on CPU, in Triton's interpreter.

TRITON_INTERPRET must be set before anything imports Triton, so all cases run in one fresh process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import expert_cases

HERE = Path(__file__).parent

PROGRAM = """
import sys
import torch
import expert_cases, triton_on_cpu
from model.config import ExpertsImplementation, FFNConfig, ModelConfig
from model.experts import build_experts

assert "megablocks" not in sys.modules and "triton" not in sys.modules
triton_on_cpu.install()
results = {}
for case, (_, top_k, _) in expert_cases.CASES.items():
    ffn = FFNConfig(ffn_hidden_size=expert_cases.FFN_HIDDEN, moe_num_experts=expert_cases.N_EXPERTS, moe_top_k=top_k)
    outcomes = []
    for kind in ExpertsImplementation.torch, ExpertsImplementation.megablocks:
        experts = build_experts(ModelConfig(d_model=expert_cases.D_MODEL, ffn_config=ffn, experts=kind))
        for parameter in experts.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.shape[0]))
        parameters = list(experts.parameters())
        outcomes.append(expert_cases.forward_and_gradients(experts, *expert_cases.draw(case), parameters))
    names = [name for name, _ in experts.named_parameters()]
    wanted = expert_cases.expected(case, parameters)
    results[case] = (*(expert_cases.worst_error(outcome, wanted) for outcome in outcomes), names)
import megablocks.layers.moe
assert megablocks.layers.moe.get_load_balancing_loss() == []
torch.save(results, sys.argv[1])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("megablocks") / "results.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path)


@pytest.mark.parametrize("case", expert_cases.CASES)
def test_forward_and_gradients(results, case):
    error_torch, error_megablocks, names = results[case]
    assert error_torch < 1e-6 and error_megablocks < 1e-6
    assert names == ["mlp.w1", "mlp.v1", "mlp.w2"]
