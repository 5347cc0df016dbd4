"""The dataset and the recipe of the tests of runs, made once."""

from types import SimpleNamespace

import pytest
from pyspark.sql import SparkSession
from workshop import make_workshop


@pytest.fixture(scope="session")
def workshop(java: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_workshop(tmp_path_factory.mktemp("workshop"), java.newSession())
