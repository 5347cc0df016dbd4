"""Every layout of ranks trains the same: gradients, their norm, losses and weights agree with one rank's."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import layouts
import pytest
import torch
from layouts import CASES, Case
from torch.utils.data import default_collate

from model.composer_model import DbrxComposerModel
from model.head import IGNORED
from model.initialise import initialise

HERE = Path(__file__).parent
MANY = [case for ranks in CASES for case in CASES[ranks] if case != case.reference]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    paths = (HERE, HERE.parent / "model", HERE.parents[1])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": ":".join(str(path) for path in paths)}
    environment["OMP_NUM_THREADS"] = "1"
    program = [sys.executable, str(HERE / "layouts.py"), str(folder)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    return folder


def _load(results: Path, case: Case) -> dict[str, Any]:
    return torch.load(results / f"{case}.pt")


def _part(name: str) -> str:
    return next(part for part in ("experts", "router", "attn", "norm", "wte", "lm_head") if part in name)


def _worst(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference in each part of the model, against the largest number there."""
    worst: dict[str, float] = {}
    for name, tensor in wanted.items():
        error = float((got[name] - tensor).abs().max() / tensor.abs().max())
        worst[_part(name)] = max(worst.get(_part(name), 0.0), error)
    assert got.keys() == wanted.keys()
    return worst


@pytest.mark.parametrize("case", MANY, ids=str)
def test_a_layout_trains_as_one_rank_does(results: Path, case: Case) -> None:
    """Gradients, and after some steps weights, and what is reported of every step. Adam makes the rounding of small
    gradients large: weights are held in units of the learning rate's, which moves them by 1e-3 in a step."""
    got, one = _load(results, case), _load(results, case.reference)
    gradients = _worst(got["gradients"], one["gradients"])
    assert gradients.keys() == {"experts", "router", "attn", "norm", "wte", "lm_head"}
    assert max(gradients.values()) < 1e-6, gradients
    assert one["rows"][0]["gradient_norm"] > layouts.OPTIMIZER.clip_norm  # clipping acts
    for mine, theirs in zip(got["rows"], one["rows"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(got["weights"][name], weights, rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_mean_over_all_targets(results: Path) -> None:
    """Of the whole global batch at once, with no trainer. Ranks and microbatches hold different numbers of targets, so
    that a mean of their means would be another number."""
    kind = "torch"
    config = layouts.model_config(kind)
    model = DbrxComposerModel(config, ["a", "b"], end_of_text=0)
    initialise(model.model, config, layouts.SEED)
    batch = default_collate(layouts.samples(kind, layouts.LONG)[: layouts.BATCH])
    model.loss(model(batch), batch)["total"].backward()
    counted_B = (model.targets(batch) != IGNORED).sum(dim=1)
    assert len(set(counted_B.view(-1, 2).sum(dim=1).tolist())) > 1
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    for case in CASES[4]:
        if case.kind == kind:
            assert max(_worst(_load(results, case)["gradients"], wanted).values()) < 1e-6, case
