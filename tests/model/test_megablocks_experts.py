"""The real MegaBlocks package against a plain fp64 loop, on CPU, in Triton's interpreter.

TRITON_INTERPRET must be set before anything imports Triton, so everything runs in one fresh process. The package's
permutation kernels work in fp32, so errors are relative ones in fp32.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import expert_cases
import expert_ranks

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("megablocks") / "results.pt"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{HERE}:{HERE.parents[1]}"}
    program = [sys.executable, str(HERE / "megablocks_on_cpu.py"), str(path)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(path)


@pytest.mark.parametrize("case", expert_cases.CASES)
def test_forward_and_gradients(results, case):
    assert results["cases"][case] < 1e-6


def test_the_packages_own_layer(results):
    assert max(results["package"].values()) < 1e-6


@pytest.mark.parametrize("ranks", expert_ranks.RANKS)
def test_expert_parallel_gradients_are_the_mean_over_ranks(results, ranks):
    assert results["ranks"][ranks] < 1e-6


@pytest.mark.parametrize("gemm", ["block sparse", "compiled"])
def test_other_gemms(results, gemm):
    assert results[gemm] < 1e-6


def test_a_missing_gemm_is_named(results):
    assert "grouped_gemm is not installed" in results["missing"]["grouped_gemm"]
    assert "Triton below 3.2" in results["missing"]["stk"]


def test_bfloat16_under_autocast(results):
    assert results["bfloat16"] is torch.bfloat16


def test_slots_that_the_kernels_cannot_count_are_refused(results):
    assert "fewer than 89,478,485 token-expert pairs" in results["too many"]


def test_parameters_and_no_module_global_losses(results):
    assert results["names"] == ["mlp.w1", "mlp.v1", "mlp.w2"]
    assert results["losses kept"] == 0
