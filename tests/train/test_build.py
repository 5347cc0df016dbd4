"""What can't be built ends in one sentence."""

from types import SimpleNamespace

import pytest
import torch

from model.config import ExpertsGemm, ExpertsImplementation, ModelConfig
from train.build import build_model, forbid_tf32
from train.errors import RecipeError


def test_a_package_that_is_not_installed_is_named_with_its_key():
    config = ModelConfig(
        d_model=64,
        n_layers=1,
        vocab_size=8,
        experts=ExpertsImplementation.megablocks,
        experts_gemm=ExpertsGemm.grouped_gemm,
    )
    recipe, plan = SimpleNamespace(model=config, seed=0), SimpleNamespace(domains=["web"])
    manifest = SimpleNamespace(tokenizer=SimpleNamespace(end_of_text=0))
    with pytest.raises(RecipeError, match=r"^model.experts_gemm: grouped_gemm is not installed; .*grouped_mm$"):
        build_model(recipe, manifest, plan)


def test_the_router_s_products_are_not_rounded_beside_bf16() -> None:
    products = torch.backends.cuda.matmul
    before = products.allow_tf32
    try:
        for precision in ("fp32", "bf16"):
            products.allow_tf32 = True  # as Composer's trainer leaves it on a GPU
            forbid_tf32(SimpleNamespace(precision=precision))
            assert products.allow_tf32 == (precision == "fp32")
    finally:
        products.allow_tf32 = before
