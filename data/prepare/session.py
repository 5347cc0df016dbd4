"""One Spark session, local or on a cluster: quiet, with our interpreter in its workers, stopped whatever happens."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from data.errors import DataError
from data.prepare import code_archive
from data.prepare.recipe import SparkChoice

OLDEST_JAVA = 17
SHUFFLE_PART_BYTES = 64 << 20  # of the input
LOG_FILE = "spark.log"
SPARK_ERRORS = (PySparkException, Py4JJavaError)  # the second: those that PySpark has no class for
LOG_SETTINGS = """\
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %p %c: %m%n
"""


@contextmanager
def spark_session(choice: SparkChoice, scratch: Path) -> Iterator[SparkSession]:
    """A session that logs into `scratch` and is stopped on leaving, by Ctrl-C as well.

    It spills where Spark does by default (SPARK_LOCAL_DIRS, or /tmp) and Java removes that at its end: a Java process
    keeps its first session's place for all later ones, so it can't be the scratch of one.

    Raises:
        DataError: there is no Java, it is too old, or it does not start with these settings.
    """
    _check_java()
    local = choice.master.startswith("local")
    if local or "PYSPARK_PYTHON" not in os.environ:  # spark-submit sets it from spark.pyspark.python
        os.environ["PYSPARK_PYTHON"] = choice.conf.get("spark.pyspark.python", sys.executable)
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    scratch.mkdir(parents=True, exist_ok=True)
    log_settings = scratch / "log4j2.properties"
    log_settings.write_text(LOG_SETTINGS, encoding="utf-8")
    settings = {
        "spark.driver.memory": choice.driver_memory,
        "spark.driver.extraJavaOptions": f'"-Dlog4j2.configurationFile={log_settings.absolute()}"',
        **({"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"} if local else {}),
        "spark.sql.warehouse.dir": str(scratch.absolute() / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.adaptive.skewJoin.enabled": "true",
        "spark.sql.session.timeZone": "UTC",
        "spark.python.worker.reuse": "true",
        # A batch is bounded in bytes as well: ten thousand documents (Spark's default) may be gigabytes.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(32 << 20),
        **choice.conf,
    }
    builder = SparkSession.builder.master(choice.master).appName("brickyard prepare")
    for key, value in settings.items():
        builder = builder.config(key, value)
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")  # nothing of ours uses them
    spark = _start(builder, scratch / LOG_FILE)
    try:
        if not local:
            _send_code(spark, scratch)
        yield spark
    finally:
        spark.stop()


def divide_shuffles(spark: SparkSession, input_bytes: int) -> None:
    """Into as many parts as the input asks for, unless the session's settings say how many: Spark's own 200 are too
    many for megabytes and too few for terabytes. The result is the same."""
    key = "spark.sql.shuffle.partitions"
    if key not in dict(spark.sparkContext.getConf().getAll()):
        least = 2 * spark.sparkContext.defaultParallelism
        spark.conf.set(key, str(max(least, input_bytes // SHUFFLE_PART_BYTES)))


def _start(builder: SparkSession.Builder, log: Path) -> SparkSession:
    try:
        with _stderr_into(log):
            return builder.getOrCreate()
    except PySparkException as error:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = " ".join(said[-3:]) or str(error).splitlines()[0]
        raise DataError(f"spark: Spark does not start with these settings: {reason}") from None


def _send_code(spark: SparkSession, scratch: Path) -> None:
    """To the machines that run the tasks, unless spark-submit has done so."""
    if code_archive.NAME not in (spark.conf.get("spark.submit.pyFiles", "") or ""):
        code_archive.write_archive(scratch / code_archive.NAME)
        spark.sparkContext.addPyFile(str((scratch / code_archive.NAME).absolute()))


@contextmanager
def _stderr_into(path: Path) -> Iterator[None]:
    """What is started in here writes its errors to a file: Java and Spark greet every user with four warnings."""
    sys.stderr.flush()
    ours = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def sentence(error: Exception) -> str:
    """The line of a Spark error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next(line for line in lines if line and not line.startswith("An error occurred while calling"))
    return re.sub(r"^: [\w.$]+: ", "", said)


def spark_path(path: Path) -> str:
    """The path as Spark takes it: on the local disk whatever Hadoop's default is, and no sign in it read as a glob."""
    return "file://" + re.sub(r"([\\*?\[\]{}])", r"\\\1", str(path.absolute()))


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME ({home})" if home else "PATH"
        raise DataError(f"no java in {where}: Spark needs Java {OLDEST_JAVA} (Debian: openjdk-17-jre-headless)")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    if version is not None and int(version[1]) < OLDEST_JAVA:
        raise DataError(f"{java} is Java {version[1]}: Spark needs Java {OLDEST_JAVA} or newer; set JAVA_HOME to one")
