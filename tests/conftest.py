"""What all tests share."""

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported. Tests' tensors are small: a second thread gains little on a quiet machine, and on a busy one
# the two wait for each other, ten times as long. And forks can't wait for threads that have stayed with the parent.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import yaml
from made_up import made_up_manifest, write_dataset
from pyspark.sql import SparkSession
from quick import QUICK

from data.prepare.recipe import SparkChoice
from data.prepare.session import spark_session

WriteRun = Callable[..., Path]


def pytest_collection_finish() -> None:
    gc.freeze()  # all that was imported: the collector need not look through it again and again, here and in each fork


@pytest.fixture(scope="session")
def java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """Spark on one core. A process has one Java: nobody may prepare without a session of this one. Its start, the
    imports of its workers and a first job take 20 seconds."""
    with spark_session(SparkChoice("local[1]", "1g", QUICK), tmp_path_factory.mktemp("spark")) as session:
        yield session


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a dataset and a recipe for it into `tmp_path`; returns the recipe's path."""

    def write(
        domains: dict[str, Sequence[int]], anchors: list[dict[str, Any]], max_seq_len: int = 10, **recipe: Any
    ) -> Path:
        write_dataset(tmp_path / "dataset", made_up_manifest(domains, max_seq_len))
        content = {
            "run_name": "test",
            "run_root": str(tmp_path / "runs"),
            "max_duration": "100ba",
            "global_train_batch_size": 8,
            "max_seq_len": max_seq_len,
            "dataset": {"path": str(tmp_path / "dataset")},
            "curriculum": {"anchors": anchors},
            "model": {
                "max_seq_len": max_seq_len,
                "vocab_size": 8192,
                "ffn_config": {"moe_normalize_expert_weights": None},
            },
            **recipe,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write
