"""What the tests of preparing share."""

import pytest
from pyspark.sql import SparkSession


@pytest.fixture(scope="module")
def spark(java: SparkSession) -> SparkSession:
    """A session with settings of its own."""
    session = java.newSession()
    session.conf.set("spark.sql.shuffle.partitions", "2")
    return session
