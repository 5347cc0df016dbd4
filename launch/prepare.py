"""`brickyard prepare`: raw text in, a tokenized MDS dataset with a manifest out."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException

from data.errors import DataError
from data.prepare import submit
from data.prepare.job import prepare
from data.prepare.recipe import PrepareRecipe
from train.errors import Terminated
from train.reader import RecipeSource, read_recipe

WITHOUT_JAVA = (OSError, Py4JError, PySparkException, DataError)  # the last: what is made of the others


def prepare_command(path: Path, overrides: Sequence[str], print_submit: bool = False) -> int:
    """Prepare the dataset that the recipe at `path` describes. Returns the exit code.

    `print_submit`: print the commands that do it by spark-submit, and do nothing.
    """
    recipe = read_recipe(PrepareRecipe, RecipeSource(path, tuple(overrides)))
    if print_submit:
        script = Path(__file__).parent / "__main__.py"
        print("\n".join(submit.commands(recipe.spark, script, ["prepare", str(path), *overrides])))
        return 0
    logging.getLogger().addFilter(_is_no_interrupt)
    with _terminated_at_sigterm():
        prepare(recipe, lambda line: print(f"prepare: {line}", flush=True))
    return 0


@contextmanager
def _terminated_at_sigterm() -> Iterator[None]:
    """Also where Java, which may have had the signal as well, is missed before this process heeds it, or when it is to
    be told that all is over. Any other error is one of ours, and stays."""
    heard: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> NoReturn:
        heard.append(number)
        Terminated.on_signal(number, frame)

    signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    except WITHOUT_JAVA:
        if heard:
            raise Terminated from None
        raise


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    """Py4J logs a Ctrl-C that comes while it waits for Java, and passes it on."""
    return record.exc_info is None or not isinstance(record.exc_info[1], KeyboardInterrupt)
