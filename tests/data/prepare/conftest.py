"""What the tests of preparing share."""

import subprocess

import pytest

from corpus import IN_PROJECT, command, recipe, write_corpus


@pytest.fixture(scope="module")
def spark(java):
    """A session with settings of its own."""
    session = java.newSession()
    session.conf.set("spark.sql.shuffle.partitions", "2")
    return session


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """The folder of the small corpus."""
    folder = tmp_path_factory.mktemp("prepare")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def lines():
    """What the command said that made `two_cores`."""
    return []


@pytest.fixture(scope="session")
def two_cores(root, lines):
    """The corpus prepared on two cores, by the command: a process has one Java."""
    output = root / "two" / "dataset"
    done = subprocess.run(command(root, recipe(root, output)), **IN_PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines.extend(done.stdout.splitlines())
    return output
