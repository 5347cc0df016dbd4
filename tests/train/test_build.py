"""What can't be built ends in one sentence."""

from types import SimpleNamespace

import pytest

from model.config import ExpertsGemm, ExpertsImplementation, ModelConfig
from train.build import build_model
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
