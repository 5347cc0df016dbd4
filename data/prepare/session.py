"""One Spark session, local or on a cluster: quiet, with our interpreter in its workers, stopped whatever happens."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import IllegalArgumentException, PySparkException
from pyspark.sql import SparkSession

from data.errors import DataError
from data.prepare import code_archive
from data.prepare.recipe import SparkChoice

OLDEST_JAVA = 17
# Parts of a shuffle, and with them tasks. Of much input, parts of PART_BYTES of it each. Of less, so many for each core
# that none waits long for another's last task, while each is worth a task's start.
PART_BYTES, PARTS_OF_A_CORE, LEAST_PART_BYTES = 64 << 20, 16, 4 << 20
SHUFFLE_PARTS, DEFAULT_SHUFFLE_PARTS = "spark.sql.shuffle.partitions", "200"
FILE_PARTS = "spark.sql.files.minPartitionNum"
CONNECT, CONNECT_PORT = "sc://", 15002
CORES_OF_A_SERVER = 16
LOG_FILE = "spark.log"
JOB_SETTINGS = {
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.adaptive.skewJoin.enabled": "true",
    # Of parts as they are sent, compressed. At Spark's own 64 MB it puts so many together that cores stand idle.
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": str(1 << 20),
    "spark.sql.session.timeZone": "UTC",
    # A batch is bounded in bytes as well: ten thousand documents (Spark's default) may be gigabytes.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 << 20),
}
# Java's own choices are for servers that run for weeks: a collector that keeps pauses short by taking part of every
# core, and a compiler that takes a third of a job of a minute for what hardly runs again. So the collector is the
# parallel one, and code is compiled at length (tier 4) after ten times as many calls and loops.
JAVA_OPTIONS = (
    "-XX:+UseParallelGC -XX:Tier4InvocationThreshold=50000 -XX:Tier4MinInvocationThreshold=6000 "
    "-XX:Tier4CompileThreshold=150000 -XX:Tier4BackEdgeThreshold=400000"
)
AGAIN = "run the same command again, which goes on after the last whole step"
_NO_MEMORY = "java.lang.OutOfMemoryError"
_FULL = re.compile("No space left on device|Disk quota exceeded|File too large")
_FRAME = re.compile(r"at [\w.$]+[(/]|\.\.\. \d+ more")  # of a stack trace
SPARK_ERRORS = (PySparkException, Py4JJavaError)  # the second: those that PySpark has no class for
# glibc gives each of Java's many threads a heap of its own; they grow as a job goes on, by 200 MB in two minutes.
JAVA_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
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
    """A session that is stopped on leaving, by Ctrl-C as well: a Spark Connect server's, or our own.

    Our own logs into `scratch`. It spills where Spark does by default (SPARK_LOCAL_DIRS, or /tmp) and Java removes that
    at its end: a Java process keeps its first session's place for all later ones, so it can't be the scratch of one.

    Raises:
        DataError: there is no Java, it is too old, it does not start with these settings, or no server answers.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / LOG_FILE).unlink(missing_ok=True)
    spark = _connect(choice) if choice.master.startswith(CONNECT) else _start_java(choice, scratch)
    try:
        if choice.master.startswith("local"):
            threading.Thread(target=_wake_workers, args=(spark,), daemon=True).start()
        else:
            _send_code(spark, scratch)
        yield spark
    finally:
        spark.stop()


def _connect(choice: SparkChoice) -> SparkSession:
    """A session of the server at `choice.master`; PySpark itself would try for ten minutes."""
    place = urlsplit(choice.master)
    try:
        socket.create_connection((place.hostname or "", place.port or CONNECT_PORT), timeout=10).close()
        builder = SparkSession.builder.remote(choice.master)
        return _configured(builder, {**JOB_SETTINGS, **choice.conf}).getOrCreate()
    except OSError as error:
        reason = f"no Spark Connect server answers there ({error.strerror or error})"
    except PySparkException as error:
        reason = sentence(error)
    raise DataError(f"spark.master: {choice.master}: {reason}")


def _start_java(choice: SparkChoice, scratch: Path) -> SparkSession:
    _check_java()
    local = choice.master.startswith("local")
    if local or "PYSPARK_PYTHON" not in os.environ:  # spark-submit sets it from spark.pyspark.python
        os.environ["PYSPARK_PYTHON"] = choice.conf.get("spark.pyspark.python", sys.executable)
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    log_settings = scratch / "log4j2.properties"
    log_settings.write_text(LOG_SETTINGS, encoding="utf-8")
    settings = {
        "spark.driver.memory": choice.driver_memory,
        "spark.driver.defaultJavaOptions": JAVA_OPTIONS,
        "spark.driver.extraJavaOptions": f'"-Dlog4j2.configurationFile={log_settings.absolute()}"',
        **({"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"} if local else {}),
        "spark.sql.warehouse.dir": str(scratch.absolute() / "warehouse"),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.python.worker.reuse": "true",
        **JOB_SETTINGS,
        **({"spark.python.daemon.module": "data.prepare.worker_daemon"} if local else {}),  # a cluster gets it too late
        **choice.conf,
    }
    builder = SparkSession.builder.master(choice.master).appName("brickyard prepare")
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")  # nothing of ours uses them
    warnings.filterwarnings("ignore", message="Unable to cleanly shutdown Spark JVM")  # Ctrl-C ended it before us
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # what it can't do any more then, it logs, and raises as well
    on_interrupt = signal.getsignal(signal.SIGINT)
    spark = _start(_configured(builder, settings), scratch / LOG_FILE)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, on_interrupt)  # Spark's own calls Java amid a call, and both fail at length
    return spark


def _wake_workers(spark: SparkSession) -> None:
    """The first task in Python waits seconds for all that its daemon imports; one is asked for while files are read."""
    with suppress(Exception):  # the session ended before it did; or the job meets the same fault, and tells of it
        spark.range(1, numPartitions=1).mapInArrow(lambda batches: batches, "id long").collect()


def _configured(builder: SparkSession.Builder, settings: Mapping[str, str]) -> SparkSession.Builder:
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder


def divide_work(spark: SparkSession, input_bytes: int) -> None:
    """Into as many parts as the input and the cores ask for, unless the session's settings say how many: Spark's own
    200 are too many for megabytes and too few for terabytes, and a stage's files would be one or two a core. The result
    is the same."""
    parts = max(cores(spark), min(PARTS_OF_A_CORE * cores(spark), input_bytes // LEAST_PART_BYTES))
    if spark.conf.get(SHUFFLE_PARTS) == DEFAULT_SHUFFLE_PARTS:
        spark.conf.set(SHUFFLE_PARTS, str(max(parts, input_bytes // PART_BYTES)))
    if spark.conf.get(FILE_PARTS, None) is None:
        spark.conf.set(FILE_PARTS, str(parts))


def parts(spark: SparkSession) -> int:
    """Of a shuffle."""
    return int(spark.conf.get(SHUFFLE_PARTS, DEFAULT_SHUFFLE_PARTS) or 1)


def cores(spark: SparkSession) -> int:
    """Tasks that run at once; of a server's, which does not tell, a guess."""
    return CORES_OF_A_SERVER if is_remote(spark) else spark.sparkContext.defaultParallelism


def is_remote(spark: SparkSession) -> bool:
    """Whether it is a Spark Connect server's."""
    return not hasattr(spark, "_jvm")


def _start(builder: SparkSession.Builder, log: Path) -> SparkSession:
    others = set(psutil.Process().children(recursive=True))
    try:
        with _output_into(log), _environment(JAVA_ENVIRONMENT):
            return builder.getOrCreate()
    except KeyboardInterrupt:
        # PySpark removes the folder where Java is to leave its port; Java fails at that, and does not end.
        for process in set(psutil.Process().children(recursive=True)) - others:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        raise
    except SPARK_ERRORS as error:
        raise DataError(f"spark: Spark does not start with these settings: {_why(error, log)}") from None


def _why(error: Exception, log: Path) -> str:
    """What Java itself has raised, or else said last, stack traces left out."""
    if isinstance(error, Py4JJavaError):
        return sentence(error)
    said = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return " ".join([line for line in said if line and not _FRAME.match(line)][-3:]) or sentence(error)


def _send_code(spark: SparkSession, scratch: Path) -> None:
    """To the machines that run the tasks, unless spark-submit has done so."""
    if code_archive.NAME not in (spark.conf.get("spark.submit.pyFiles", "") or ""):
        code_archive.write_archive(scratch / code_archive.NAME)
        archive = str((scratch / code_archive.NAME).absolute())
        if is_remote(spark):
            spark.addArtifacts(archive, pyfile=True)
        else:
            spark.sparkContext.addPyFile(archive)


@contextmanager
def _environment(names: Mapping[str, str]) -> Iterator[None]:
    """What is started in here has these variables as well, unless they are set."""
    added = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """What is started in here writes to a file: Java and Spark greet every user with four warnings, and what keeps Java
    from starting it says on standard output."""
    sys.stdout.flush()
    sys.stderr.flush()
    ours = {number: os.dup(number) for number in (1, 2)}
    with path.open("wb") as file:
        for number in ours:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, copy in ours.items():
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def explained(output: Path, scratch: Path, choice: SparkChoice) -> Iterator[None]:
    """Turns a full disk, wherever it was noticed, a Java that has too little memory, and settings that Spark refuses
    only when it needs them, into one sentence.

    `scratch`: that of the session (spark_session).

    Raises:
        DataError: a disk is full, or Java's memory is, or a setting is no good.
    """
    try:
        yield
    except (PySparkException, Py4JError, OSError) as error:
        if (said := _FULL.search(str(error))) is not None:
            raise DataError(f"output: a disk is full ({said[0]}): {_free(output)}; make room and {AGAIN}") from None
        if isinstance(error, IllegalArgumentException) and any(key in str(error) for key in choice.conf):
            raise DataError(f"spark.conf: {sentence(error)}") from None
        log = scratch / LOG_FILE
        if _NO_MEMORY in str(error) or (log.is_file() and _NO_MEMORY in log.read_text(errors="replace")):
            where = "driver_memory" if choice.master.startswith("local") else "conf: {spark.executor.memory}"
            raise DataError(
                f"spark.{where}: Java has too little memory for the longest record that it met; raise it "
                f"(driver_memory is {choice.driver_memory} now) and {AGAIN}"
            ) from None
        raise


def _free(output: Path) -> str:
    spills = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")[0]
    return ", ".join(
        f"{folder} has {shutil.disk_usage(folder).free / 1e9:,.1f} GB free" for folder in (output.parent, spills)
    )


def sentence(error: Exception) -> str:
    """The line of a Spark error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next(line for line in lines if line and not line.startswith("An error occurred while calling"))
    return re.sub(r"^: [\w.$]+: ", "", said)


def spark_path(path: Path) -> str:
    """The path as Spark takes it: on the local disk whatever Hadoop's default is, and no sign in it read as a glob."""
    return "file://" + no_glob(str(path.absolute()))


def no_glob(path: str) -> str:
    """A path in which Spark reads no sign as a glob's."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", path)


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
