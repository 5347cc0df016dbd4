"""What ends one rank ends them all, and all of them say the same."""

from __future__ import annotations

import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from composer.utils import dist
from torch.distributed import Store, distributed_c10d

from data.errors import DataError, Outage
from model.errors import ModelError
from train.errors import Diverged, RecipeError, RunFailed, Stopped, no_room

KEY = "brickyard/failure"
MISTAKES = (RecipeError, DataError, ModelError)
# What gloo, NCCL and the store say when a rank has gone, and when one does not answer.
GONE = re.compile(r"onnection (was )?(closed|reset)|roken pipe|ailed to (recv|send)|remote process exited|rank is gone")
SILENT = re.compile(r"[Tt]imed out|[Tt]imeout")
FROM_TRANSPORT = re.compile(r"gloo|NCCL|[Ss]tore|[Ss]ocket|c10d")
WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? [0-9, ]+\) (?P<how>[^.]*)")


@contextmanager
def together() -> Iterator[None]:
    """Tell the other ranks of an error here, before they miss this one; and where this one misses them, ask why.

    Raises:
        RecipeError, DataError, ModelError: what one of the ranks has raised, with its sentence.
        RunFailed: a rank is gone, or something else than the run failed.
    """
    try:
        yield
    except (Stopped, Diverged):  # all of them have agreed to it
        raise
    except Exception as error:
        if misses_others(error):
            traceback.print_exception(error)  # where it waited, in this rank's log
            raise told() or RunFailed(missed(error)) from None
        reason = in_a_sentence(error)
        tell(reason)
        if isinstance(reason, MISTAKES) and dist.get_global_rank():
            # rank 0 says it for all, but may be waiting where it never hears of it: NCCL does not raise
            print(reason, file=sys.stderr, flush=True)
        if reason is error:
            raise
        raise reason from None


def misses_others(error: Exception) -> bool:
    """Whether another rank that is gone, or does not answer, is what this error comes from."""
    if not isinstance(error, RuntimeError) or not FROM_TRANSPORT.search(f"{type(error).__name__} {error}"):
        return False
    return bool(GONE.search(str(error)) or SILENT.search(str(error)))


def missed(error: Exception) -> str:
    how = "has ended" if GONE.search(str(error)) else "has not answered for dist_timeout seconds"
    return f"another rank {how}; its log says why, and the same command goes on from the newest checkpoint"


def in_a_sentence(error: Exception) -> Exception:
    """The same error, or one that says in a sentence what its user can do."""
    for cause in causes(error):
        if isinstance(cause, Outage):
            return RunFailed(f"{cause}; the same command goes on from the newest checkpoint")
        if isinstance(cause, MISTAKES):
            return cause
        if isinstance(cause, OSError) and (full := no_room(cause)):
            return full
        if isinstance(cause, RuntimeError) and (match := WORKER.search(str(cause))):
            return RunFailed(
                f"a dataloader worker {match['how'].strip()} (was there too little memory?); the same command goes on "
                "from the newest checkpoint"
            )
    return error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def tell(reason: Exception) -> None:
    """Leave word for the others, where there is a place for it."""
    if (store := common_store()) is not None:
        said = str(reason) if isinstance(reason, (*MISTAKES, RunFailed)) else f"{type(reason).__name__}: {reason}"
        word = {"rank": dist.get_global_rank(), "mistake": isinstance(reason, MISTAKES), "said": said}
        store.set(KEY, json.dumps(word))


def told() -> Exception | None:
    """What a rank that failed has left word of."""
    store = common_store()
    try:
        if store is None or not store.check([KEY]):
            return None
        word: dict[str, Any] = json.loads(store.get(KEY))
    except RuntimeError:  # rank 0 keeps the store, and is gone
        return None
    return RecipeError(word["said"]) if word["mistake"] else RunFailed(f"rank {word['rank']} failed: {word['said']}")


def common_store() -> Store | None:
    """What all ranks can read and write; None before they have met."""
    return distributed_c10d._get_default_store() if dist.is_initialized() else None
