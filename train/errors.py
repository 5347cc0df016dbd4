"""The ways in which a run ends early without a fault of ours."""

from types import FrameType
from typing import NoReturn

from data.errors import NO_ROOM


class RecipeError(Exception):
    """A user's mistake, in one sentence: what, where, and what was expected. Ends with exit code 2, no traceback."""


class NoDataset(RecipeError):
    """There is no dataset where the recipe says."""


class CurriculumError(RecipeError):
    """A curriculum that does not fit the dataset: the recipe's key, and what is wrong with it."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}")
        self.key = key
        self.sentence = sentence


class Stopped(Exception):
    """The run was asked to end by a signal and has saved a checkpoint first."""

    def __init__(self, signal: int, step: int) -> None:
        super().__init__(f"stopped after step {step:,}, which is saved; the same command goes on from there")
        self.exit_code = 128 + signal


class Diverged(Exception):
    """The loss stands out, or is no number, and the recipe says that the run ends then. Ends with exit code 1."""


class RunFailed(Exception):
    """Something outside the run ended it, in one sentence: a rank or a worker is gone. Ends with exit code 1."""


class Terminated(KeyboardInterrupt):
    """SIGTERM where nothing is left to save: before the first step of a run, and in a preparation."""

    @classmethod
    def on_signal(cls, number: int, frame: FrameType | None) -> NoReturn:
        raise cls


def no_room(error: OSError) -> RecipeError | None:
    """What its user can do, if a disk is full, or a quota or a file's size has come to its end."""
    if error.errno not in NO_ROOM:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return RecipeError(f"{where}{error.strerror}; make room, and the same command goes on where it was saved")
