"""The commands that prepare a recipe by spark-submit, on machines that have neither our code nor our packages."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pyspark

from data.errors import DataError
from data.prepare.code_archive import NAME
from data.prepare.recipe import SparkChoice
from data.prepare.session import CONNECT

ENVIRONMENT = "environment.tar.gz"


def commands(spark: SparkChoice, script: Path, arguments: Sequence[str]) -> list[str]:
    """Shell commands, in order: pack the packages, pack the code, submit `script` with `arguments`.

    The driver runs here, with this interpreter; the archive's own is a link, so the machines need the same Python.

    Raises:
        DataError: the recipe names a Spark Connect server, which has a driver of its own.
    """
    if spark.master.startswith(CONNECT):
        raise DataError(
            f"spark.master: {spark.master} is a Spark Connect server, to which nothing is submitted; "
            "run `brickyard prepare` without --print-submit"
        )
    submit = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", spark.master]
    submit += ["--name", "brickyard prepare", "--driver-memory", spark.driver_memory]
    submit += ["--archives", f"{ENVIRONMENT}#environment", "--py-files", NAME]
    conf = {
        "spark.pyspark.driver.python": sys.executable,
        "spark.pyspark.python": "./environment/bin/python",
        "spark.log.level": "ERROR",
        **spark.conf,
    }
    for key, value in conf.items():
        submit += ["--conf", f"{key}={value}"]
    return [
        shlex.join(["tar", "-czf", ENVIRONMENT, "-C", sys.prefix, "."]),
        shlex.join([sys.executable, "-m", "data.prepare.code_archive", NAME]),
        shlex.join([*submit, str(script), *arguments]),
    ]
