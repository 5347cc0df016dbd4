"""What Spark says when it fails becomes one sentence where it is the user's to mend."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

import launch.cli
import launch.prepare
from data.errors import DataError
from data.prepare.recipe import SparkChoice
from data.prepare.session import LOG_FILE, explained

from corpus import IN_PROJECT, command, recipe

LOCAL, CLUSTER = SparkChoice("local[2]", "3g"), SparkChoice("spark://host:7077", "3g")


def test_java_without_memory_is_one_sentence(tmp_path: Path) -> None:
    """A Java that ends for it tells Python nothing: only its log says why."""
    (tmp_path / LOG_FILE).write_text(
        "ERROR Executor: Exception in task 0.0\njava.lang.OutOfMemoryError: Java heap space\n"
    )
    said = r"^spark.driver_memory: Java has too little memory .*3g now.* same command"
    with pytest.raises(DataError, match=said), explained(tmp_path / "out", tmp_path, LOCAL):
        raise Py4JError("SparkContext was shut down")
    said = r"^spark.conf: \{spark.executor.memory\}: Java has too little"
    with pytest.raises(DataError, match=said), explained(tmp_path / "out", tmp_path / "nothing", CLUSTER):
        raise Py4JError("Lost task 1.0: java.lang.OutOfMemoryError: Java heap space")


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("WARN nothing of the kind\n")
    with pytest.raises(Py4JError, match="something else"), explained(tmp_path / "out", tmp_path, LOCAL):
        raise Py4JError("something else")


def test_settings_that_java_refuses_are_told_with_its_reason(root: Path, tmp_path: Path) -> None:
    """Which it prints on standard output. By the command: a process has one Java."""
    choice = SparkChoice("local[1]", "1g", {"spark.driver.extraJavaOptions": "-XX:+UseG1GC"})
    mistaken = command(tmp_path, recipe(root, tmp_path / "out", spark=choice))
    done = subprocess.run(mistaken, **IN_PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "spark: Spark does not start with these settings" in done.stderr
    assert "Multiple garbage collectors selected" in done.stderr


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (SparkChoice("local[x]", "1g"), "spark: Spark does not start with these settings: Could not parse Master URL"),
        (SparkChoice("yarn", "1g"), "When running with master 'yarn' either HADOOP_CONF_DIR or YARN_CONF_DIR must be"),
        (SparkChoice("local[1]", "1g", {"spark.sql.shuffle.partitions": "abc"}), "spark.conf: "),
    ],
)
def test_settings_that_spark_refuses_are_told_in_a_sentence(
    root: Path, tmp_path: Path, choice: SparkChoice, said: str
) -> None:
    mistaken = command(tmp_path, recipe(root, tmp_path / "out", spark=choice))
    done = subprocess.run(mistaken, **IN_PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == 1 and "\tat " not in done.stderr


def test_sigterm_to_a_whole_group_is_no_fault_of_java_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Java has it as well, and is gone first."""

    def lose_java(*_: object) -> None:
        with suppress(KeyboardInterrupt):  # as in a finaliser, which Python lets nothing leave
            os.kill(os.getpid(), signal.SIGTERM)
        raise ConnectionRefusedError

    monkeypatch.setattr(launch.prepare, "prepare", lose_java)
    before = signal.getsignal(signal.SIGTERM)
    try:
        (tmp_path / "data.yaml").write_text("output: out\nmax_seq_len: 8\ndomains: {a: {sources: [{path: x}]}}\n")
        assert launch.cli.main(["prepare", str(tmp_path / "data.yaml")]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupt_while_java_starts_leaves_no_java(root: Path, tmp_path: Path) -> None:
    """PySpark left one that waited for ever: it could not say any more where it listens."""
    interrupted = command(tmp_path, recipe(root, tmp_path / "out"))
    with subprocess.Popen(interrupted, **IN_PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        started: list[psutil.Process] = []
        while process.poll() is None and not any(map(is_of_spark, started)):
            time.sleep(0.05)
            started = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.5)  # now its script has become Java
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert psutil.wait_procs(started, timeout=10)[1] == []


def is_of_spark(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "org.apache.spark.deploy.SparkSubmit" in process.cmdline()
    return False


def test_java_has_few_heaps_of_glibc_and_this_process_what_it_had(java: SparkSession) -> None:
    of_java = Path(f"/proc/{java._jvm.ProcessHandle.current().pid()}/environ").read_bytes().split(b"\0")
    assert any(entry.startswith(b"MALLOC_ARENA_MAX=") for entry in of_java)
    assert os.environ.get("MALLOC_ARENA_MAX") is None or b"MALLOC_ARENA_MAX=2" not in of_java
